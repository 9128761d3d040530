"""The base's CLIP tokenizer: byte-level BPE whose merges spell out the words of the captions and of common prompts."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from models.studio import captions
from models.studio.scenes import BACKGROUNDS, COLOURS, OBJECTS
from models.studio.training import STUDIO, replace_folder

#: Tokens of a prompt, start and end included. Stable Diffusion's 77 would mean attending to padding.
MAX_LENGTH = 32

START, END = "<|startoftext|>", "<|endoftext|>"

#: Words the model was not taught but people write: one token each keeps their prompts under MAX_LENGTH.
COMMON = """
the of and in to for with from by at as is it its this that our your new no not without very more most style look
brand logo photo photograph image art design poster banner advert ad campaign product shot studio light lighting
soft warm cold sunny sun sunset night day morning evening winter summer spring autumn snow rain sea beach forest
city street mountain river sky cloud water fire gold golden silver wooden wood metal glass paper stone plastic table
desk floor shelf window door room kitchen garden person people man woman child dog cat bird flower plant apple
banana cake coffee tea beer wine book bag shoe hat watch phone laptop camera bike bicycle train plane ship bus road
left right next under over behind front side top bottom two three four many large huge tiny round square happy fresh
organic luxury premium quality sale holiday party gift vintage retro neon pastel colorful colourful dark pale deep
pattern stripes dots texture abstract watercolor watercolour painting sketch pencil comic cartoon realistic render
vector icon sticker high low resolution masterpiece blurry text watermark magenta cyan maroon olive lime coral
indigo tan khaki bronze standing sitting floating flying driving parked isolated
""".split()  # noqa: SIM905  # a page of quotes and commas reads worse


def words() -> list[str]:
    """Every word that gets a token of its own, in a fixed order."""
    sentences = [
        *OBJECTS,
        *COLOURS,
        *BACKGROUNDS,
        *captions.FRAMES,
        *captions.OPENINGS,
        *captions.FILLERS,
        *captions.ENDINGS,
    ]
    sentences += [saying for sayings in captions.SAYINGS.values() for saying in sayings]
    known = (
        w
        for s in sentences
        for w in s.replace("{thing}", "").replace("{wall}", "").replace("-", " ").replace(",", " ").split()
    )
    return list(dict.fromkeys([*known, *COMMON]))


def learn_merges(learned: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that make every word one token: the commonest pair first, ties in alphabetical order.

    The tokenizers library learns the same way but breaks ties at random, and a vocabulary that changes between runs
    would scramble a half-trained text encoder.
    """
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in learned]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for pieces in spelled for pair in pairwise(pieces)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for pieces in spelled:
            i = 0
            while i < len(pieces) - 1:
                if (pieces[i], pieces[i + 1]) == best:
                    pieces[i : i + 2] = ["".join(best)]
                i += 1
    return merges


def build() -> CLIPTokenizer:
    """Every listed word is one token; anything else falls back to pieces, in the end to its bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(words())
    tokens = [*alphabet, *(letter + "</w>" for letter in alphabet), *(a + b for a, b in merges), START, END]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)  # type: ignore[arg-type]  # takes pairs


def save(folder: Path = STUDIO / "base" / "tokenizer") -> None:
    """Writes the files that every transformers release reads: tokenizer.json, and vocab.json with merges.txt."""
    tokenizer = build()

    def write(beside: Path) -> None:
        tokenizer.save_pretrained(beside)
        model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        (beside / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False))
        merges = (m if isinstance(m, str) else " ".join(m) for m in model["merges"])
        (beside / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")

    replace_folder(folder, write)
