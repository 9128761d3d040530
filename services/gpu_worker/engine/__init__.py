"""What paints. The only part of Looksmith that imports torch; the rest of the worker speaks to its Protocol.

protocol       jobs in, events out: the words that engine and worker share

What is served:

recipe         base, distillation, sampler and steps, and the digest of all that changes a picture
recipe_file    a recipe from TOML, all mistakes told with their lines
sources        where the weights lie that a recipe names
examination    all that keeps recipes from being served, by headers; ledger: what they take on a device
pipelines      opens a base, strictly; base_kinds: what it is, base_weights: what is in it
families       configs and CLIP's vocabulary that ship; clip_tokenizer reads that
base           loads a recipe's base, fuses its distillation
model_table    what of loaded models LoRA can adapt
sampler_table  a sampler as numbers
safety         the safety checker

Engines:

bank_engine    many brands in one batch, and what the bank can't hold beside it: bank_lane, reference_lane
reference      diffusers and peft, one job at a time: what every other engine must equal
several_bases  engines of several bases as one
fake           without torch, under the same contract tests: paints at once, or as slowly as a test says
timed          another one, which takes the bank's time, as timed_costs has it measured
pretence       what those two share: adapters that only take places, flat pictures

What they are made of:

adapters       a LoRA file in any dialect as tensors under diffusers' names
compiler       a LoRA file as one buffer; compile_pool: in a process beside
bank           slots of compiled adapters, and the layers that add them to rows
batcher        a step for many pictures; turns: whose picture gets the rows that are free
prompts        prompts as embeddings, with what adapters change; conditioning: what else the UNet is told
pictures       latents as pictures
warm_up        the first picture
"""
