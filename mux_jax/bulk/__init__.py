"""Very many texts: folders of files on one machine, and the engines that people have.

  worker.Worker               what all of them send to their workers: a model that is loaded once a process
  beam.MuxModelHandler        for `RunInference` of Apache Beam
  ray.MuxPredictor            for `map_batches` of Ray Data
  spark.predict_udf           a pandas UDF for Spark

`launch/predict.py` with several files is in `folder` (one process) and `beam` (any runner). The unit of work is a file:
the windows in which rows are composed are those of the file, so that what is written depends on the seed, the file and
the row alone, not on how many workers there are.
"""
