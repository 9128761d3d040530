"""Judges an adapter without a server, for `looksmith publish --check`. Leaves the judgement to looksmith.lora."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from looksmith.cli.terminal import Problem, note, print_json, say
from looksmith.lora import Code, Inspection, Inspector, LoraError, inspect, pack, packaged_table
from looksmith.lora import Problem as Finding
from looksmith.nouns import Lineage

_TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
#: Turns what torch.save wrote into a file of safetensors; weights_only keeps a pickle from running code.
_CONVERSION = (
    "import torch; from safetensors.torch import save_file; "
    "read = torch.load({source!r}, map_location='cpu', weights_only=True); "
    "save_file({{name: one.contiguous() for name, one in read.get('state_dict', read).items()}}, {target!r})"
)


def check(path: Path, *, family: str, json: bool) -> None:
    """Prints what the adapter is, or every reason to refuse it.

    Raises:
        Problem: it would be refused, or the family has no module table here.
        OSError: it cannot be read.
    """
    try:
        found = _inspection(path, family)
    except LookupError as error:
        raise Problem(f"{error.args[0]}; a registry that knows it checks the file when it is published", 4) from None
    except LoraError as error:
        findings = [_described(finding, path) for finding in error.problems]
        if json:
            print_json({"ok": False, "path": str(path), "family": family, "problems": findings})
        else:
            for finding in findings:
                for line in _lines(finding):
                    say(line)
        more = f" and {len(findings) - 1} more" if len(findings) > 1 else ""
        raise Problem(f"{path} would be refused: {error.code}{more}", 4) from None
    if json:
        print_json(_as_json(found, path))
        return
    components = ", ".join(f"{count} in {name}" for name, count in _by_component(found).items())
    ranks = "/".join(map(str, found.ranks))
    say(f"{path} is an adapter for {family}: {found.dialect.value}, rank {ranks}, {len(found.modules)} modules")
    say(f"  modules     {components}")
    say(f"  alpha/rank  {' '.join(f'{scale:.4g}' for scale in _scales(found))}")
    say(f"  size        {found.file_bytes} bytes, {found.parameters} parameters, sha256 {found.sha256}")
    if found.lineage != Lineage():
        say(f"  lineage     {in_words(found.lineage)}")
    for warning in found.warnings:
        note(f"{warning.code}: {warning.what}. {warning.code.why} {warning.code.fix}")


def in_words(lineage: Lineage) -> str:
    """What is known of an adapter's training; empty if nothing is."""
    known = {
        "trigger words": ", ".join(lineage.trigger_words),
        "clip skip": lineage.clip_skip,
        "predicts": lineage.prediction_type,
        "trained from": lineage.trained_from,
    }
    return "; ".join(f"{name} {value}" for name, value in known.items() if value)


def _inspection(path: Path, family: str) -> Inspection:
    """What the registry would find, of a file or of a peft folder as it is packed.

    Raises:
        LookupError: the family has no table here.
        LoraError: the adapter is refused.
    """
    table = packaged_table(family)
    if not path.is_dir():
        return inspect(path, table)
    folder = pack(path)
    inspector = Inspector(folder.file_bytes, table)
    for chunk in folder.chunks():
        inspector.feed(chunk)
    return inspector.finish()


def _described(finding: Finding, path: Path) -> dict[str, str]:
    return {
        "code": finding.code.name,
        "what": finding.what,
        "why": finding.code.why,
        "what_to_do": f"{finding.code.fix}{_conversion(finding, path)}",
        "subject": finding.subject,
    }


def _conversion(finding: Finding, path: Path) -> str:
    """How a file of torch.save becomes one that is read; empty for others."""
    if path.suffix not in _TORCH_SUFFIXES or finding.code not in {Code.E_MAGIC, Code.E_HEADER_LEN}:
        return ""
    program = _CONVERSION.format(source=str(path), target=f"{path}.safetensors")
    return f" Where torch and safetensors are installed, this converts it: python -c {shlex.quote(program)}"


def _lines(finding: dict[str, str]) -> Iterator[str]:
    yield f"{finding['code']}: {finding['what']}"
    yield f"  why         {finding['why']}"
    yield f"  what to do  {finding['what_to_do']}"


def _as_json(found: Inspection, path: Path) -> dict[str, object]:
    return {
        "ok": True,
        "path": str(path),
        "family": found.family,
        "dialect": found.dialect.value,
        "modules": len(found.modules),
        "components": _by_component(found),
        "ranks": list(found.ranks),
        "scales": _scales(found),
        "parameters": found.parameters,
        "size_bytes": found.file_bytes,
        "sha256": found.sha256,
        "lineage": asdict(found.lineage),
        "warnings": [
            {"code": one.code.name, "what": one.what, "why": one.code.why, "what_to_do": one.code.fix}
            for one in found.warnings
        ],
        "problems": [],
    }


def _by_component(found: Inspection) -> dict[str, int]:
    return dict(Counter(module.component for module in found.modules))


def _scales(found: Inspection) -> list[float]:
    return sorted({module.scale for module in found.modules})
