"""Stripe's own library over our Http. The library is an extra: this module is imported when it is first needed."""

from collections.abc import Mapping

import stripe

from openoutcry.clock import Clock
from openoutcry.transport import Http, TransportError


class OverHttp(stripe.HTTPClient):
    """What the library sends its requests by: no redirects, no proxies of the environment, answers bounded."""

    name = "openoutcry"

    def __init__(self, http: Http, clock: Clock) -> None:
        super().__init__()
        self._http = http
        self._clock = clock

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: str | None = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """One question, one answer. Raises APIConnectionError, which the library takes for a reason to try again."""
        try:
            answer = await self._http.send(
                method.upper(), url, headers=headers, body=None if post_data is None else post_data.encode()
            )
        except TransportError as e:
            raise stripe.APIConnectionError(str(e), should_retry=True) from e  # type: ignore[no-untyped-call]
        return answer.body, answer.status, answer.headers

    async def sleep_async(self, secs: float) -> None:
        """Wait before the next try."""
        await self._clock.sleep(secs)


def client(key: str, api_base: str, http: Http, clock: Clock, retries_max: int) -> stripe.StripeClient:
    """A client of the API at that address; nothing of it is global."""
    return stripe.StripeClient(
        key,
        base_addresses={"api": api_base.rstrip("/")},
        http_client=OverHttp(http, clock),
        max_network_retries=retries_max,
    )
