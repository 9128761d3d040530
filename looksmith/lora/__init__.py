"""What a LoRA file is: numpy and the standard library only, no torch, no network, no protobuf.

errors       the table of codes, and the error that carries them
limits       how much a file may bring
strict_json  JSON without leniency
header       the safetensors container
floats       numbers in their bytes
tables       which layers a base has
sai          what Stability's own code calls those layers
peft_config  what a LoraConfig says about rank and alpha
dialects     who wrote the file, and which tensors belong together
canonical    header + table -> modules
scan         one pass over the data
lineage      where the adapter comes from, as its file says
validate     may this file be published?
packing      a peft folder as one file
read         the weights, for the worker
"""

from looksmith.lora.canonical import LoraModule
from looksmith.lora.dialects import Dialect
from looksmith.lora.errors import Code, LoraError, Problem
from looksmith.lora.limits import Limits
from looksmith.lora.packing import PackedFolder, pack
from looksmith.lora.read import Description, Weights, describe, read_modules, read_weights
from looksmith.lora.tables import Module, ModuleTable, packaged_table, table_from_folder, table_from_json, table_to_json
from looksmith.lora.validate import Inspection, Inspector, inspect

__all__ = [
    "Code",
    "Description",
    "Dialect",
    "Inspection",
    "Inspector",
    "Limits",
    "LoraError",
    "LoraModule",
    "Module",
    "ModuleTable",
    "PackedFolder",
    "Problem",
    "Weights",
    "describe",
    "inspect",
    "pack",
    "packaged_table",
    "read_modules",
    "read_weights",
    "table_from_folder",
    "table_from_json",
    "table_to_json",
]
