"""A server: requests of many clients share rows.

A request goes through these, from top to bottom:

  guard      keys, limits, time-outs; errors as JSON
  api        what clients speak: text-embeddings-inference, OpenAI (`answers`), KServe (`kserve`)
  service    texts become tokens; which model answers; deferral
  engine     a model's thread: batches, one after the other
  waiting    what waits: which texts share rows, in which order batches leave
"""
