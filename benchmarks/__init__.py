"""Measures what Looksmith promises. Asserts nothing that a slow machine could fail; tests do the judging.

To be run, each with ``--json``:

engine        swaps, batches and whole calls, beside diffusers and peft
registry      races, lost answers, crashes, starts, garbage, uploads, resolving and watching
placement     the router's choice of a worker, in virtual time, beside simpler ones
brands        many brands: files, and a registry that has them
charts        draws what engine kept; placement_chart: what placement kept

What these are made of:

swaps         until an adapter can act        batches       different brands in one batch
flatness      the same with hundreds          hidden_swaps  how much of a swap is waited for
service       whole RPCs, cold brands         lost_answers  over unreliable_proxy, a bad network
tiers_alone   the worker without its jobs     references    what a brand's pictures must look like
bases         SD 1.5 and SDXL by configs      module_tables what of a base LoRA can adapt
lora_files    LoRA files of every dialect     measure       contenders in turn; report: figures and bars
end_to_end    what moved aliases let paint    placement_alone  homes and decisions, without any load
crash_points  kills at every store call       crash_paths   ways to write; soundness: what is left after them
replicas      registries that may be killed   deadly_proxy  kills them; store_proxy: what proxies have in common
restart       from start to first answer      uploads       large_files, also over a cutting_proxy
placement_simulation  a router in virtual time, with simulated_workers, placement_demand and placement_policies
"""
