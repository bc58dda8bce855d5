"""gRPC through the balancer: HTTP/2 on both sides, trailers, streaming both ways."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures

import grpc
import pytest

from bench.rig.balancer import Balancer, free_port


def _raw(data: bytes) -> bytes:
    return data


class Echo(grpc.GenericRpcHandler):
    """Methods without a schema: bytes in, bytes out."""

    def __init__(self) -> None:
        self.hanging = threading.Event()
        self.cancelled = threading.Event()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = details.method.rpartition("/")[2]
        if method == "Unary":
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request[::-1])
        if method == "Down":
            return grpc.unary_stream_rpc_method_handler(
                lambda request, _: (b"%d" % number for number in range(int(request)))
            )
        if method == "Up":
            return grpc.stream_unary_rpc_method_handler(
                lambda requests, _: b"%d" % sum(len(request) for request in requests)
            )
        if method == "Both":
            return grpc.stream_stream_rpc_method_handler(
                lambda requests, _: (request.upper() for request in requests)
            )
        if method == "Fail":
            return grpc.unary_unary_rpc_method_handler(self._fail)
        if method == "Hang":
            return grpc.unary_unary_rpc_method_handler(self._hang)
        return None

    def _fail(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("detail-bin", b"\x00\x01"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no more")
        raise AssertionError

    def _hang(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.add_callback(self.cancelled.set)
        self.hanging.set()
        self.cancelled.wait(45)
        return b""


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[Echo, int]]:
    handler = Echo()
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, port
    server.stop(0).wait()


@pytest.fixture(scope="module")
def running(service: tuple[Echo, int]) -> Iterator[tuple[Balancer, int]]:
    port = free_port()
    text = (
        f'workers = {{min = 1, max = 2}}\n[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\n'
        f'backend = "b"\n[[backend]]\nname = "b"\nhttp2 = true\n'
        f'[[backend.server]]\naddress = "127.0.0.1:{service[1]}"\n'
    )
    with Balancer(text=text) as balancer:
        yield balancer, port


@pytest.fixture
def channel(running: tuple[Balancer, int]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{running[1]}") as channel:
        yield channel


def test_unary(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/echo/Unary")
    for size in (0, 1, 1000, 300_000, 3_000_000):
        data = bytes(range(250)) * (size // 250 + 1)
        assert call(data[:size], timeout=50) == data[:size][::-1]


def test_a_stream_of_answers(channel: grpc.Channel) -> None:
    got = list(channel.unary_stream("/echo/Down")(b"2000", timeout=50))
    assert got == [b"%d" % number for number in range(2000)]


def test_a_stream_of_requests(channel: grpc.Channel) -> None:
    got = channel.stream_unary("/echo/Up")(iter([b"x" * 1000] * 2000), timeout=50)
    assert got == b"2000000"


def test_both_streams_take_turns(channel: grpc.Channel) -> None:
    turn = threading.Semaphore(1)

    def requests() -> Iterator[bytes]:
        for number in range(200):
            turn.acquire()  # the next request only after the last answer
            yield b"a%d" % number

    count = 0
    for answer in channel.stream_stream("/echo/Both")(requests(), timeout=50):
        assert answer == b"A%d" % count
        count += 1
        turn.release()
    assert count == 200


def test_errors_and_trailers_arrive(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/echo/Fail")(b"", timeout=50)
    error = caught.value
    assert isinstance(error, grpc.Call)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.details() == "no more"
    assert ("detail-bin", b"\x00\x01") in error.trailing_metadata()
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/echo/Nowhere")(b"", timeout=50)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_deadline_ends_the_call_on_both_sides(
    channel: grpc.Channel, service: tuple[Echo, int], running: tuple[Balancer, int]
) -> None:
    for seconds in (0.3, 1, 3, 10):  # until a busy machine has it come to the server before its deadline
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/echo/Hang")(b"", timeout=seconds)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        if service[0].hanging.is_set():
            break
    assert service[0].cancelled.wait(50)
    running[0].wait("nothing active", lambda status: status["servers"][0]["active"] == 0)
    assert channel.unary_unary("/echo/Unary")(b"ab", timeout=50) == b"ba"
