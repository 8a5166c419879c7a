"""The order of instructions: what each needs, and which order the queues get."""

from hypothesis import given
from hypothesis import strategies as st

from vit_opt.backends.accel.emulator import Machine
from vit_opt.backends.accel.image import Image
from vit_opt.backends.accel.lowering.arena import Region, Use, whole
from vit_opt.backends.accel.lowering.schedule import schedule
from vit_opt.backends.accel.lowering.semaphores import with_semaphores
from vit_opt.backends.accel.lowering.tasks import Tasks
from vit_opt.dialects.vit.targets import P2VIT, TRIO
from vit_opt.dialects.vit_accel import isa
from vit_opt.dialects.vit_accel.enums import DType
from vit_opt.dialects.vit_accel.fields import Addr, Space

BUFFER = Region(Space.ABUF, 64, 64)


def fill() -> isa.Fill:
    return isa.Fill(Addr(Space.ABUF, 0), 64, 0, DType.I8)


def test_only_common_bytes_bind() -> None:
    tasks = Tasks()
    low, high = Use(BUFFER, 0, 32), Use(BUFFER, 32, 64)
    tasks.add(fill(), None, "write low", [], [low])
    tasks.add(fill(), None, "write high", [], [high])
    tasks.add(fill(), None, "read low", [low], [])
    tasks.add(fill(), None, "read all", [whole(BUFFER)], [])
    tasks.add(fill(), None, "write low again", [], [low])
    tasks.add(fill(), None, "read high", [Use(BUFFER, 40, 48)], [])
    tasks.add(fill(), None, "elsewhere", [], [whole(Region(Space.BBUF, 64, 64))])
    needs = [task.needs for task in tasks.all]
    assert needs == [(), (), (0,), (0, 1), (0, 2, 3), (1,), ()]


def test_barriers_and_chains_bind() -> None:
    tasks = Tasks()
    tasks.add(fill(), None, "a", [], [], chain=3)
    tasks.add(fill(), None, "b", [], [], chain=4)
    tasks.add(fill(), None, "c", [], [], chain=3)
    tasks.barrier()
    tasks.add(fill(), None, "d", [], [])
    assert [task.needs for task in tasks.all] == [(), (), (0,), (1, 2)]


def product(m: int = 64) -> tuple[isa.Matmul, isa.EngineMatmul]:
    fields = (Addr(Space.OBUF, 0), Addr(Space.ABUF, 0), Addr(Space.BBUF, 0), m, 64, 64, 256, 64, 64)
    return isa.Matmul(*fields), isa.EngineMatmul(*fields)


def test_what_is_ready_does_not_wait_behind_what_is_not() -> None:
    """A product that waits for a slow load, and one that waits for nothing and more depends on."""
    tasks = Tasks()
    slow = isa.Load(Addr(Space.ABUF, 64), Addr(Space.DRAM, 0), 50_000)
    tasks.add(slow, None, "load", [], [whole(BUFFER)])
    tasks.add(product()[0], None, "late", [whole(BUFFER)], [])
    tasks.add(product()[0], None, "early", [], [])
    found = schedule(tasks.all, P2VIT)
    assert [number for number, _ in found.steps] == [0, 2, 1]
    load, matmul = (task.inst.cycles(P2VIT) for task in tasks.all[:2])
    assert load + matmul < found.cycles < load + 2 * matmul


def test_two_engines_share_products() -> None:
    tasks = Tasks()
    for _ in range(4):
        inst, instead = product()
        tasks.add(inst, instead, "product", [], [])
    found = schedule(tasks.all, TRIO)
    assert sorted(type(inst).__name__ for _, inst in found.steps) == [
        *["EngineMatmul"] * 2,
        *["Matmul"] * 2,
    ]
    assert found.cycles < 3 * product()[0].cycles(TRIO)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["load", "product", "either", "requant", "store"]),
            st.integers(0, 7),
            st.integers(0, 7),
            st.integers(1, 500),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_every_order_is_valid(draws: list[tuple[str, int, int, int]]) -> None:
    """Each task comes after what it needs, the queues end without deadlock, and about when said."""
    places = [Region(Space.ABUF, 64 * index, 64) for index in range(8)]
    tasks = Tasks()
    for kind, source, target, size in draws:
        inst: isa.UnitInst
        inst, instead = product(size)
        if kind == "load":
            inst = isa.Load(Addr(Space.ABUF, 0), Addr(Space.DRAM, 0), size)
        elif kind == "store":
            inst = isa.Store(Addr(Space.DRAM, 0), Addr(Space.ABUF, 0), size)
        elif kind == "requant":
            inst = isa.Requant(
                size, 8, Addr(Space.ABUF, 0), Addr(Space.OBUF, 0), 8, 8, DType.I8, DType.I8
            )
        uses = [whole(places[source])], [whole(places[target])]
        tasks.add(inst, instead if kind == "either" else None, kind, *uses)
    found = schedule(tasks.all, TRIO)
    assert sorted(number for number, _ in found.steps) == list(range(len(draws)))
    seen: set[int] = set()
    for number, inst in found.steps:
        assert seen.issuperset(tasks.all[number].needs)
        assert inst in (tasks.all[number].inst, tasks.all[number].instead)
        seen.add(number)
    code, origins = with_semaphores(tasks.all, found.steps)
    image = Image(TRIO.name, code, (), (), (), 1 << 16, 0, TRIO.digest(), origins)
    cycles = Machine(image, TRIO, timing_only=True).run().cycles
    assert abs(cycles - found.cycles) <= (12 + TRIO.dram_latency) * len(draws)


def test_what_only_one_engine_can_do_goes_before_what_two_can() -> None:
    """Two long products that either engine takes, and a short one of the second engine alone, which
    something waits for: less far from the end than a long one, but nobody else can do it."""
    tasks = Tasks()
    for name in ("first", "second"):
        tasks.add(*product(640), name, [], [])
    tasks.add(product()[1], None, "alone", [], [whole(BUFFER)])
    rescale = isa.Requant(
        100, 64, Addr(Space.OBUF), Addr(Space.ABUF, 64), 64, 0, DType.I8, DType.I8
    )
    tasks.add(rescale, None, "behind", [whole(BUFFER)], [])
    found = schedule(tasks.all, TRIO)
    assert next(number for number, inst in found.steps if isinstance(inst, isa.EngineMatmul)) == 2
    long, short = (product(m)[0].cycles(TRIO) for m in (640, 64))
    assert long > short + rescale.cycles(TRIO)
    assert long + short <= found.cycles < long + short + 10
