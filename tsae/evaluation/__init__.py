"""How good an archive is: what `tsae evaluate` measures, and the report card it writes. `docs/EVALUATION.md` is its text.

```
report.py                          all of it: measures archives, writes the files
page.py  plots.py  pictures.py     the page, its plots, its pictures
figures.py -> verdict.py           what facts come to, and what that means for a person
statistics.py                      whether a difference of two accuracies is more than chance
measuring.py                       facts of each image, from records and originals, batch by batch
facts.py                           what is known of each image
```
"""

from tsae.evaluation.report import Evaluation as Evaluation
from tsae.evaluation.report import evaluate as evaluate
from tsae.evaluation.report import write_report as write_report
