"""A bus without Redis: carries frames between nodes of one process when the test says so."""

from appliance.delivery.nodes_contract import BusUser


class MemoryWire:
    """What connects the buses. `is_cut` loses everything, as Redis does while it is away."""

    def __init__(self):
        self.users = []
        self.is_cut = False
        self.lose = 0
        self.log = []

    def join(self, user: BusUser):
        self.users.append(user)
        user.opened()
        self.carry()

    def cut(self):
        self.is_cut = True
        for user in self.users:
            user.closed("test")

    def mend(self):
        self.is_cut = False
        for user in self.users:
            user.opened()
        self.carry()

    def carry(self):
        """Carry all that waits, and what comes of it."""
        while not self.is_cut:
            frames = [(user, user.take()) for user in self.users]
            frames = [(user, frame) for user, frame in frames if frame is not None]
            if not frames:
                return
            for _, frame in frames:
                self.log.append(frame)
                if self.lose:
                    self.lose -= 1
                    continue
                for user in self.users:
                    if frame.to in (None, user.id):
                        user.hear(frame.data)


class MemoryBus:
    """One node's end of it; frames wait for `MemoryWire.carry`."""

    def __init__(self):
        self.reopened = 0

    def wake(self):
        pass

    def reopen(self):
        self.reopened += 1

    async def run(self, user):
        raise NotImplementedError("Nodes on a memory bus are driven by their test.")

    def stop(self):
        pass
