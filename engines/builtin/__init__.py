"""The built-in engine: a forward pass, a slot cache and a step-by-step scheduler over torch.

    backend  -> text (templates, tokens)       requests become sequences of token ids
             -> scheduler                      one thread: admit, step, hand out, release
                  -> runner -> model, cache    one forward pass over all running sequences
                  -> sampling, detokenizer     logits become tokens become text

Only `engines.transformers_server` loads this package: everything below imports torch.
"""
