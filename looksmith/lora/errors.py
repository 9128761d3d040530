"""Says why a LoRA file is refused: a stable code, what is wrong, why that matters and what to do about it.

Owns the one table of codes; knows nothing about how a fault is found.
"""

from dataclasses import dataclass
from enum import Enum


class Code(Enum):
    """Every reason to refuse a file (E_) or to warn about it (W_). Names are stable; texts may improve."""

    # The container
    E_SIZE = (
        "The file's length decides where each tensor lies; a file that is cut, padded or oversized cannot be trusted.",
        "Upload the whole file again; if it is larger than the limit, save the LoRA in 16 bits or with a lower rank.",
    )
    E_MAGIC = (
        "Only safetensors files are read: the other formats can run code when they are opened, or hold no LoRA.",
        "Save the LoRA as .safetensors (safe_serialization=True, or your trainer's save_model_as=safetensors).",
    )
    E_HEADER_LEN = (
        "The first eight bytes must give the length of the safetensors header, and the header must fit into the file.",
        "Check that the file is a complete safetensors file; strip cover images and the like from its metadata.",
    )
    E_JSON = (
        "Readers resolve a malformed or ambiguous header differently, so that what was checked is not what is loaded.",
        "Write the file again with the safetensors library; do not edit its header by hand.",
    )
    E_METADATA = (
        "Metadata may only map text to text; anything else breaks other readers and hides what the file holds.",
        "Remove the named metadata entry, or store its value as text.",
    )
    E_TENSOR_COUNT = (
        "No LoRA of an image model has that many or that few tensors.",
        "Check that the file is a LoRA and not a full checkpoint or an empty save.",
    )
    E_NAME = (
        "Names become module paths, log lines and error messages, so they are restricted to plain characters.",
        "Name tensors with letters, digits, '_', '.' and '-', in at most 256 characters.",
    )
    E_OFFSETS = (
        "Tensors must tile the data without gaps or overlaps; otherwise bytes go unchecked, or mean two things.",
        "Write the file again with the safetensors library.",
    )
    E_EMPTY_TENSOR = (
        "An empty tensor holds no weights, and can claim another tensor's bytes.",
        "Leave modules that were not trained out of the file.",
    )
    E_DTYPE = (
        "Weights are checked and compiled as F16, BF16 or F32; other types would be converted by guesswork.",
        "Convert the LoRA's tensors to F16, BF16 or F32 and save it again.",
    )
    # The dialect
    E_FORMAT = (
        "A tensor or setting that is not understood would be dropped silently, and the pictures would be wrong.",
        "Publish one LoRA in one of the dialects PEFT (the whole folder), diffusers or kohya, and nothing else.",
    )
    E_UNSUPPORTED = (
        "Only plain LoRA is applied exactly: scale times B times A, added to an unchanged base weight.",
        "Train or convert to a plain LoRA, without this feature.",
    )
    E_ALPHA_MISSING = (
        "The scale of the weights is alpha / rank, and alpha is not here; a guess would paint too weak or too strong.",
        "Publish the whole PEFT folder: adapter_config.json holds alpha and travels with the weights.",
    )
    E_ALPHA = (
        "Alpha / rank multiplies every weight; unless it is positive, finite and moderate it spoils every picture.",
        "Check lora_alpha, alpha_pattern or the .alpha tensors, and save the LoRA with the alpha it was trained with.",
    )
    E_PAIR = (
        "A LoRA module is a product of two halves, B and A; one half alone, or two of the same, means nothing.",
        "Save the LoRA again: each module needs exactly one down (A) and one up (B) tensor of the same rank.",
    )
    E_RANK = (
        "Workers reserve room by rank, and a rank other than the one declared would be loaded at the wrong scale.",
        "Resize the LoRA to a rank within the limit, and keep its config in step with its tensors.",
    )
    # The base
    E_BASE = (
        "A LoRA fits only the kind of base model that it was trained on.",
        "Publish it for a base of its own family, or train it again on this one.",
    )
    E_MODULE = (
        "A module that the base does not have cannot be loaded, and part of the look would be missing.",
        "Check that the LoRA was trained on this base, and that its names follow a known dialect.",
    )
    E_SHAPE = (
        "Weights of another shape cannot be added to the base's.",
        "Check that the LoRA was trained on this base and not on a larger or smaller relative.",
    )
    # The values
    E_NONFINITE = (
        "One NaN or infinity spreads to every pixel, and to every picture in the same batch.",
        "Training has diverged: go back to an earlier checkpoint, or train with a lower rate or in BF16.",
    )
    # Warnings
    W_ALLZERO = (
        "In every module one half is zero, so that the LoRA changes nothing.",
        "Check that you publish the trained weights and not those that training started from.",
    )
    W_RANK = (
        "A rank above the smaller side of a layer spends memory and time without adding anything.",
        "Resize the LoRA when convenient; it paints the same pictures.",
    )
    W_BASE_UNKNOWN = (
        "Without the digest of the base that it was trained on, only the shapes show that the LoRA fits.",
        "Declare the base digest when you publish.",
    )
    W_BASE_OTHER = (
        "The LoRA was trained on another base of the same family; the look may differ from what its maker saw.",
        "Train on this base, or compare a few pictures before you promote it.",
    )

    def __init__(self, why: str, fix: str) -> None:
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file, or worth a warning."""

    code: Code
    what: str  # one sentence that names the offender
    subject: str = ""  # the tensor, module or field it is about; empty for the file as a whole

    def __str__(self) -> str:
        return f"{self.code}: {self.what}\n  Why it matters: {self.code.why}\n  What to do: {self.code.fix}"


class LoraError(ValueError):
    """The file is refused. Holds at least one problem; the first one's code is the error's."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__(*problems)
        self.problems = problems

    @property
    def code(self) -> Code:
        return self.problems[0].code

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def refusal(code: Code, what: str, subject: str = "") -> LoraError:
    """A LoraError of one problem, to be raised."""
    return LoraError(Problem(code, what, subject))


def shown(text: object) -> str:
    """Hostile text as it may appear in a message: quoted, ASCII only, at most about 100 characters."""
    quoted = ascii(text[:100] if isinstance(text, str) else text)  # all of a text could take megabytes
    length = len(text) if isinstance(text, str) else len(quoted)
    return quoted if len(quoted) <= 100 else f"{quoted[:80]}...({length} characters)"
