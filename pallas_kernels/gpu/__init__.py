"""Parts shared by the GPU kernels of all inner loops."""
