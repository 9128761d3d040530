"""The studio model: a small latent diffusion base, its distillation and its brands, made from drawings alone."""
