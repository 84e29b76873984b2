"""Stable Diffusion's U-Net inflated to video, as in Tune-A-Video."""
