"""How answers are scored: what may be asked for, and what each measure makes of an answer.

An evaluation carries a list such as

    [{"kind": "exact_match", "ignore_case": true},
     {"kind": "json_fields", "relative_tolerance": 0.01},
     {"kind": "judge", "model": "qwen3-8b", "rubric": "Polite, and true to the manual?"}]

`reading.read` turns it into scorers; `scoring.score` of all of them gives one flat mapping of
names to numbers for an answer: {"exact_match": 1.0, "field.intent": 0.0, "rouge_l": 0.41}.
"""
