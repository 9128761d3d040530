"""Measures what Looksmith promises. Asserts nothing that a slow machine could fail; tests do the judging.

To be run, each with ``--json``:

engine        swaps, batches and whole calls, beside diffusers and peft
registry      races, lost answers, crashes, starts, garbage, uploads, resolving and watching
placement     the router's choice of a worker, in virtual time, beside simpler ones
failover      workers, routers and registries killed, stopped, hung and restarted under callers
router        what it costs, overload, fairness, portions, outages and an autoscaler, in real processes
loadtest      the talk's test: users for twenty minutes, while parts of the system are killed
upgrade       a rolling upgrade from the last release and back, under users
recipes       every shipped recipe beside bare diffusers
clean_installs  what the Dockerfile installs, in clean environments, until each service serves
fuzzing       every parser that reads what strangers write, with strange inputs
hostile_streams  servers under streams that mean harm, and a bystander
soak          what processes have gathered after thousands of requests
readiness     until a worker serves; full_size: SDXL with 64 brands
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
fleet_processes  a fleet of mortal processes  callers       strike in the middle of what a witness hears
lost_workers  killed, stopped and hung        lost_routers  ended in mid-image; rolling: restarts of everything
hanging_worker  large pictures, and hangs     redispatches  by spans, until the next worker has a job
router_stack  parts to be started anew        load          callers, a process; asking: one request
router_hop    and stalled readers             scripted_worker  answers at once, for both of these
router_overload  and a greedy brand           router_portions  sixteen pictures over four workers
router_calm   full load without false alarms  router_outage  no records; router_scaling: 1 -> 0 -> 1 workers
reduced_bases  small bases for all recipes     single_files  checkpoints in one file
random_bases  the same at full size
observed_stack  processes that are asked what they have, by observed from inside and process_samples from outside
placement_simulation  a router in virtual time, with simulated_workers, placement_demand and placement_policies
"""
