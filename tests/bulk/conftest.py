"""Spark runs on Java: where there is none its tests are not collected."""

import shutil

collect_ignore = [] if shutil.which("java") else ["test_spark.py"]
