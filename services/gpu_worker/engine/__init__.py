"""What paints. The only part of Looksmith that imports torch; the rest of the worker speaks to its Protocol.

protocol   jobs in, events out: the words that engine and worker share
recipe     base, distillation, sampler and steps, and the digest of all that changes a picture
recipe_file   a recipe from TOML, all mistakes told with their lines
sources    where the weights lie that a recipe names
fake       an engine without torch, under the same contract tests: paints at once, or as slowly as a test says
timed      another one, which takes the bank's time: many brands in a batch, each wait as timed_costs has it measured
pretence   what those two share: adapters that only take places, flat pictures
turns      whose picture gets the rows that are free
base       loads a recipe's base, fuses its distillation
adapters   a LoRA file in any dialect as tensors under diffusers' names
reference  diffusers and peft, one job at a time: what every other engine must equal
"""
