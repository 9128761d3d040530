"""Feeds strange bytes to everything that reads what strangers write; a finding is kept with what reproduces it.

Run it by `python -m benchmarks.fuzzing --json FILE`; atheris, which follows what an input reaches, makes the inputs.

target        a parser, what it may refuse an input with, and what inputs are made from
adapter_files, texts, stored, calls   the targets
messages      any bytes as a protobuf message of a type, mostly odd
parcels       several texts in one input
trial         one input: what became of it, in how much time and memory
child         a process that fuzzes one target; plants: faults that it can be given
overseer      starts children, sees them hang or die, keeps what they found
"""
