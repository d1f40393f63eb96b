"""What several contexts write goes to PostgreSQL as one statement: one round trip for all.

Each context keeps its own SQL, as steps (modifying CTEs) with parameters of their own, and says
by what answer it will know that they did what they should.
"""

import re
from typing import Final, NamedTuple

_PARAMETER: Final = re.compile(r"\$(\d+)")


class Part(NamedTuple):
    """A context's share of a statement.

    `steps`: CTEs with commas between them, parameters from $1 on; their names are unique among
    the parts. `answer`: an expression over them, the statement's column for this part.
    """

    steps: str
    answer: str
    parameters: int


def statement(*parts: Part) -> str:
    """One statement of all parts; its parameters are theirs, part after part.

    All parts see the tables as they were before: none may depend on what another one writes.
    The answers are worked out in the order of the parts, and with them the steps they name.
    """
    steps, answers, first = [], [], 0
    for part in parts:
        steps.append(_from(first, part.steps))
        answers.append(_from(first, part.answer))
        first += part.parameters
    return f"with {', '.join(steps)}\nselect {', '.join(answers)}"


def _from(first: int, sql: str) -> str:
    return _PARAMETER.sub(lambda found: f"${first + int(found[1])}", sql)
