"""The built-in engine: a forward pass, a cache of blocks and a step-by-step scheduler over torch.

    backend  -> text (templates, tokens)       requests become sequences of token ids
             -> scheduler                      one thread: admit, step, hand out, release
                  -> blocks, pace              who holds which memory; how much a step reads
                  -> runner -> model, cache    one forward pass over all running sequences
                  or modules_runner, _cache    transformers' modules, for all other architectures
                  -> sampling, detokenizer     logits become tokens become text

Only `engines.transformers_server` loads this package: everything below imports torch.
"""
