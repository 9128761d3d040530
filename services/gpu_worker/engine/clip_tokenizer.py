"""CLIP's tokenizer, built in memory from its merges alone, so that a base without one needs no network.

Whose tokenizer a pipeline takes, its folder's or this one, is pipelines.py's.
"""

from __future__ import annotations

import gzip

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from services.gpu_worker.engine.families import CLIP_MERGES

#: Tokens of a prompt, start and end included: as many positions as CLIP's text encoders have.
MAX_LENGTH = 77

#: What fills up a prompt, by the name that a pipeline gives the tokenizer.
PADS = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}

_START, _END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(*, pad_token: str) -> CLIPTokenizer:
    """The tokenizer of CLIP-L and of OpenCLIP's text encoders, which differ in what fills up a prompt.

    Stable Diffusion 1.5 and SDXL's first text encoder pad with ``<|endoftext|>``, SDXL's second with ``!``, token 0;
    that one then takes a prompt's own ``!`` for padding too, as SDXL's published tokenizer does.
    The vocabulary follows from the merges, as in https://github.com/openai/CLIP: every byte, every byte that ends a
    word, every merge in its order, and the two ends.
    """
    merges = [tuple(line.split(" ")) for line in gzip.decompress(CLIP_MERGES.read_bytes()).decode().splitlines()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())  # a character a byte
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, merges), _START, _END]
    return CLIPTokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,  # type: ignore[arg-type]  # takes pairs
        pad_token=pad_token,
        model_max_length=MAX_LENGTH,
    )
