"""The shortest way through the service."""

import httpx


def test_a_message_comes_back(client: httpx.Client) -> None:
    """A message that was acknowledged can be read back at once."""
    assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
    sent = client.post("/v1/sessions/s/messages", json={"role": "user", "content": "Hello"})
    assert sent.status_code == 201
    assert client.get("/v1/sessions/s/messages").json()["data"] == [sent.json()]
