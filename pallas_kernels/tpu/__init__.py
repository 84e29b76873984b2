"""What the TPU kernels share: packing of heads, products, block sizes."""
