"""A resolver with a fixed zone whose answers a test may change between two questions."""

from collections.abc import Sequence


class NameServer:
    """Answers from `zone`; a name with several answer sets gives them one after the other, the last one for ever."""

    def __init__(self, zone: dict[str, list[list[str]]]) -> None:
        self._zone = {name: list(answers) for name, answers in zone.items()}
        self.questions: list[str] = []

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.questions.append(host)
        answers = self._zone.get(host)
        if not answers:
            raise OSError(f"no such name: {host}")
        return answers.pop(0) if len(answers) > 1 else answers[0]
