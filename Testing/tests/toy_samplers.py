"""What small samplers are made of."""

VAE_MAPS = {
    "latents": 4,
    "condition_channels": 0,
    "encoder": "small",
    "encoder_width": 2,
    "blocks": 2,
    "decoder_width": 2,
    "attention": False,
    "spatial": True,
}


FLOW = {"blocks": 2, "hidden": 8, "depth": 1, "features": 4, "downs": 2, "embedder_width": 4}
