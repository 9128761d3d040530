from looksmith.errors import error_to_status
from looksmith.lora import Code, LoraError, Problem
from services.registry.errors import AdapterRefused


def test_the_longest_refusal_fits_into_the_trailers_of_a_call() -> None:
    codes = [code for code in Code if code.name.startswith("E_")][:16]
    error = AdapterRefused(LoraError(*(Problem(code, "tensor " + "x" * 600) for code in codes)))
    assert len(error.violations) == 16
    # gRPC refuses over 8 KiB; the message travels once more beside the details.
    assert len(error_to_status(error).SerializeToString()) + len(error.message) < 8000


def test_each_kind_of_fault_is_explained_once() -> None:
    faults = [Problem(Code.E_PAIR, "a is alone"), Problem(Code.E_PAIR, "b is alone"), Problem(Code.E_RANK, "c is big")]
    described = [violation.description for violation in AdapterRefused(LoraError(*faults)).violations]
    assert [Code.E_PAIR.fix in text for text in described] == [True, False, False]
    assert Code.E_RANK.why in described[2]
