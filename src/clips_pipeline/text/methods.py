"""The methods that can be compared, by name; they share data order, towers, losses and everything else that can be shared.

| method | text tower reads | captioner |
| --- | --- | --- |
| clip | the web caption | none |
| mixture | the web caption, or for a share of the samples the whole synthetic one | none |
| coca | the same as mixture | predicts that very text from the image and the words before (teacher forcing) |
| clips | the web caption, and a fragment of the synthetic one | predicts the whole synthetic caption at once |

`mixture` is how the paper re-runs CLIPA, and `coca` how it re-runs CoCa: "original caption with probability 80 %, synthetic 20 %"
(CLIPS paper, project page; docs/method.md).
"""

from typing import Literal

Method = Literal["clip", "mixture", "coca", "clips"]

CAPTIONING_METHODS: frozenset[str] = frozenset({"coca", "clips"})
"""Methods whose model has a captioner."""
