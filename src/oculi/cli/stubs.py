"""What `oculi new` writes."""

STUB = '''r"""{title}: the idea in the field's words.

    equations, shapes, units

Author: Title, year, arXiv.
"""

from oculi.input_contract import InputContract
from oculi.predictions import Classes
from oculi.system import System
from oculi.types import Batch, Losses


class {title}(System):
    """What it is."""

    answer = Classes

    def __init__(self, num_classes: int = 10, image_size: int = 64):
        super().__init__(InputContract(image_size, image_size))

    def loss(self, batch: Batch) -> Losses:
        raise NotImplementedError

    def predict(self, batch: Batch) -> list[Classes]:
        raise NotImplementedError
'''
RECIPE_STUB = """title: {title}
summary: One line.
paper: Author year, arXiv
system: oculi.{family}.{name}.{title}
arguments: {{num_classes: 10}}
data: {{name: digits}}
training: {{steps: 1000}}
score: {{accuracy: ">= 0.9"}}
tiny: {{num_classes: 10, image_size: 16}}
"""
