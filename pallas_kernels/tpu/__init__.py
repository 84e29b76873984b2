"""Parts shared by the TPU kernels: packing of heads, products, tiling."""
