"""The jobs of tsae as Apache Beam pipelines: for a laptop, and for a Flink or Spark cluster."""

import logging

# Without its optional cloud packages, importing Beam warns of them, once per process and for nobody's good.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
