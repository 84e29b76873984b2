"""What the GPU kernels of all inner loops share."""
