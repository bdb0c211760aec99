"""The command line: parses, calls one function, prints. Heavy imports happen inside the command that needs them.

```
program.py -> parser.py     the process: exit codes, signals, bugs | all commands, by name
jobs.py                     compress, decompress
images.py                   get, ls, sheet
archives.py                 info, verify, compact
evaluate.py                 evaluate
web.py                      export-web, serve
models.py                   train, train-classifier, models
demo.py                     demo
```
"""

from tsae.cli.program import main as main
from tsae.cli.program import main_of_pipeline as main_of_pipeline
from tsae.cli.program import main_of_program as main_of_program
