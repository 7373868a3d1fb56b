"""A hub without sockets for tests of the engine: says who is live, and remembers what was offered."""

from appliance.hub.hub import Offered


class HubStandIn:
    """Takes offers as `hub.hub.Hub` does."""

    def __init__(self):
        self.live = {}
        self.plain = {}
        self.offers = []
        self.plain_offers = []
        self.closed = []
        self.seats = {}
        self.resyncs = 0
        self.faulty_titles = set()

    def connect(self, device_id, *, acknowledges=True, window_s=4.0):
        self.live[device_id] = Offered(acknowledges, window_s)

    def offer(self, notification, device_ids):
        if notification.envelope.title in self.faulty_titles:
            raise RecursionError
        taken = {device_id: self.live[device_id] for device_id in device_ids if device_id in self.live}
        self.offers.extend((device_id, notification.envelope) for device_id in taken)
        return taken

    def is_connected(self, device_id):
        return device_id in self.live

    def close_device(self, device_id, reason, *, allow_reconnect=False):
        self.closed.append((device_id, allow_reconnect))
        self.live.pop(device_id, None)

    def offer_plain(self, user_id, notification):
        self.plain_offers.append((user_id, notification.envelope))
        return self.plain.get(user_id, 0)

    def give_way(self, device_id, seat_stamp):
        if device_id not in self.seats or self.seats[device_id] >= seat_stamp:
            return self.seats.get(device_id)
        del self.seats[device_id]
        return None

    def list_seats(self):
        return list(self.seats.items())

    async def resync(self):
        self.resyncs += 1
        return 0
