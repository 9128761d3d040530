"""Stage 2: the base. Text encoder and UNet learn together to denoise the autoencoder's latents (v-prediction)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from models.studio import tokenizer as studio_tokenizer
from models.studio.captions import caption
from models.studio.dataset import CACHE, pictures, scenes
from models.studio.scenes import Scene
from models.studio.sheet import peek
from models.studio.train_vae import BASE_PICTURES, to_pixels
from models.studio.training import DEVICE, STUDIO, Trainer, replace_folder

STEPS, BATCH, PEAK_RATE = 3000, 48, 1e-3
#: Share of captions left empty, so that guidance has an unconditional side.
UNCONDITIONAL = 0.1
TEXT_WIDTH = 128


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's betas with zero terminal SNR (arXiv 2305.08891): the first step starts from pure noise.

    Needs v-prediction and trailing timesteps; an eps model would divide by zero at the first step.
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # what Stable Diffusion pipelines insist on; trailing spacing ignores it
    )


def new_text_encoder(tokens: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=TEXT_WIDTH,
            max_position_embeddings=studio_tokenizer.MAX_LENGTH,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    # No attention on the way down at 16 x 16: it would make a training step a tenth longer.
    # On the way up it stays, so that an adapter on attention can draw texture and line.
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=8,
        block_out_channels=(64, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 3, 4),  # diffusers' name for the number of heads: 32 channels each
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=8,
        use_linear_projection=True,
    )


def latents(drawn: NDArray[np.uint8], vae: AutoencoderKL, *, name: str) -> Tensor:
    """Posterior means of pictures, float32 [n, 8, 16, 16]; cached under ``name``."""
    file = CACHE / f"{name}.latents.pt"
    if not file.exists():
        torch.save(encoded(drawn, vae), file)
    kept: Tensor = torch.load(file, weights_only=True)
    return kept


@torch.no_grad()
def encoded(drawn: NDArray[np.uint8], vae: AutoencoderKL) -> Tensor:
    """Posterior means of pictures, float32 [n, 8, 16, 16]."""
    parts = np.array_split(drawn, max(1, len(drawn) // 50))
    return torch.cat([vae.encode(to_pixels(torch.from_numpy(p)).to(DEVICE)).latent_dist.mean for p in parts]).cpu()


class CaptionedLatents:
    """Batches of (latents, token ids) drawn from ``generator``; every visit to a picture words it anew."""

    def __init__(
        self, wanted: list[Scene], kept: Tensor, tokens: CLIPTokenizer, *, unconditional: float = UNCONDITIONAL
    ) -> None:
        self._scenes, self._latents, self._tokens, self._unconditional = wanted, kept, tokens, unconditional

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        picks = torch.randint(len(self._scenes), (size,), generator=generator)
        rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
        texts = ["" if rng.random() < self._unconditional else caption(self._scenes[i], rng) for i in picks.tolist()]
        return self._latents[picks].to(DEVICE), token_ids(self._tokens, texts).to(DEVICE)


def token_ids(tokens: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids, int64 [n, MAX_LENGTH], padded and cut as Stable Diffusion pipelines do."""
    padded = tokens(
        texts, padding="max_length", max_length=tokens.model_max_length, truncation=True, return_tensors="pt"
    )
    ids: Tensor = padded.input_ids
    return ids


def denoising_loss(
    unet: nn.Module,
    text_encoder: nn.Module,
    scheduler: DDIMScheduler,
    clean: Tensor,
    ids: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of v at timesteps spread evenly over the batch."""
    n = len(clean)
    noise = torch.randn(clean.shape, generator=generator).to(DEVICE)
    spread = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    t = (spread * 1000).long().clamp(max=999).to(DEVICE)
    noisy = scheduler.add_noise(clean, noise, t)
    wanted = scheduler.get_velocity(clean, noise, t)
    made = unet(noisy, t, text_encoder(ids).last_hidden_state, return_dict=False)[0]
    return F.mse_loss(made, wanted)


def train() -> None:
    torch.manual_seed(2)
    tokens = CLIPTokenizer.from_pretrained(STUDIO / "base" / "tokenizer")
    vae = AutoencoderKL.from_pretrained(STUDIO / "base" / "vae", dtype=torch.float32).to(DEVICE).eval()
    wanted = scenes("train", BASE_PICTURES)
    data = CaptionedLatents(wanted, latents(pictures(wanted, name="train-none"), vae, name="train-none"), tokens)
    scheduler = new_scheduler()
    model = nn.ModuleDict({"unet": new_unet(), "text_encoder": new_text_encoder(tokens)}).to(DEVICE)
    trainer = Trainer("base", model, steps=STEPS, peak_rate=PEAK_RATE, decay=0.999)

    def assemble(weights: nn.ModuleDict) -> StableDiffusionPipeline:
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=weights["text_encoder"],
            tokenizer=tokens,
            unet=weights["unet"],
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def loss_of(generator: torch.Generator) -> Tensor:
        clean, ids = data.batch(BATCH, generator)
        return denoising_loss(model["unet"], model["text_encoder"], scheduler, clean, ids, generator)

    average = trainer.run(loss_of, look=lambda weights: peek(assemble(weights), "base"))
    pipe = assemble(average)
    replace_folder(STUDIO / "base" / "unet", pipe.unet.half().save_pretrained)
    replace_folder(STUDIO / "base" / "text_encoder", pipe.text_encoder.half().save_pretrained)
    replace_folder(STUDIO / "base" / "scheduler", scheduler.save_pretrained)
    pipe.save_config(STUDIO / "base")
    trainer.close()


if __name__ == "__main__":
    train()
