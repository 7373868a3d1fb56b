"""Owns the live connections: SignalR protocol, sessions, presence, replay and the transports at `/hubs/notifications`.

Guarantees order per session, a bound on every queue, and that a slow or hostile connection harms only itself.
Never imports storage, channels or anything above it; the upper layers come in through `hub.backend.HubBackend`.
"""
