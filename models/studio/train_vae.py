"""Stage 1: the autoencoder. 128 x 128 pictures to 16 x 16 latents of eight channels, each of unit variance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from models.studio.dataset import pictures, scenes
from models.studio.scenes import LOOKS, OBJECTS, OBJECTS_UNSEEN_BY_BRANDS
from models.studio.training import DEVICE, STUDIO, Trainer, replace_folder

STEPS, BATCH, PEAK_RATE = 3200, 16, 2e-3
#: Weight of the KL term per latent element; with LOG_VARIANCE it sets how much noise the decoder learns to bear.
KL = 3e-5
#: Where the posterior's log variance starts: below diffusers' 0, so that reconstruction leads and noise comes later.
LOG_VARIANCE = -5.0
BASE_PICTURES, LOOK_PICTURES = 12_000, 1_000

SEEN_BY_BRANDS = tuple(o for o in OBJECTS if o not in OBJECTS_UNSEEN_BY_BRANDS)


def new() -> AutoencoderKL:
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=128,
        scaling_factor=1.0,
    )
    nn.init.constant_(vae.quant_conv.bias[8:], LOG_VARIANCE)
    return vae


def to_pixels(drawn: Tensor) -> Tensor:
    """uint8 [n, h, w, 3] to float [n, 3, h, w] in -1..1."""
    return drawn.permute(0, 3, 1, 2).float().div(127.5).sub(1.0)


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Error of pixels, of their differences (crisp edges) and of 4 x 4 means (else green and pink come late)."""
    loss = F.l1_loss(made, wanted) + 2 * F.mse_loss(made, wanted)
    loss = loss + 8 * F.mse_loss(F.avg_pool2d(made, 4), F.avg_pool2d(wanted, 4))
    for a, b in zip(edges(made), edges(wanted), strict=True):
        loss = loss + F.l1_loss(a, b)
    return loss


def normalise(vae: AutoencoderKL, sample: Tensor) -> None:
    """Folds a per-channel shift and scale into the quant convolutions, so that latents have mean 0 and variance 1.

    Stable Diffusion pipelines know a single scaling factor; this needs none.
    """
    with torch.no_grad():
        mean, logvar = vae.quant_conv(vae.encoder(sample)).chunk(2, dim=1)
        shift = mean.mean(dim=(0, 2, 3))
        scale = (mean.var(dim=(0, 2, 3)) + logvar.exp().mean(dim=(0, 2, 3))).sqrt()
        quant, post = vae.quant_conv, vae.post_quant_conv
        n = shift.numel()
        quant.weight[:n] /= scale[:, None, None, None]
        quant.bias[:n] = (quant.bias[:n] - shift) / scale
        quant.bias[n:] -= 2 * scale.log()
        post.bias += (post.weight[:, :, 0, 0] * shift).sum(1)
        post.weight *= scale[None, :, None, None]


def train() -> None:
    torch.manual_seed(1)
    data = [pictures(scenes("train", BASE_PICTURES), name="train-none")]
    data += [
        pictures(
            scenes("train", LOOK_PICTURES, look=look, subjects=SEEN_BY_BRANDS, start=100_000), name=f"train-{look}"
        )
        for look in LOOKS[1:]
    ]
    drawn = [torch.from_numpy(d) for d in data]
    # Channels last: about a tenth faster on a CPU at these widths.
    vae = new().to(DEVICE, memory_format=torch.channels_last)
    trainer = Trainer("vae", vae, steps=STEPS, peak_rate=PEAK_RATE)

    def loss_of(generator: torch.Generator) -> Tensor:
        picks = []
        for i in range(BATCH):
            kind = 0 if i < BATCH // 2 else 1 + int(torch.randint(len(drawn) - 1, (), generator=generator))
            picks.append(drawn[kind][torch.randint(len(drawn[kind]), (), generator=generator)])
        x = to_pixels(torch.stack(picks)).to(DEVICE, memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        made = vae.decode(posterior.sample()).sample
        divergence: Tensor = posterior.kl().mean() / posterior.mean[0].numel()
        return reconstruction_loss(made, x) + KL * divergence

    average = trainer.run(loss_of)
    normalise(average, to_pixels(torch.cat([d[:60] for d in drawn])).to(DEVICE))
    replace_folder(STUDIO / "base" / "vae", average.half().save_pretrained)
    trainer.close()


if __name__ == "__main__":
    train()
