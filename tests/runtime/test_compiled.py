"""What is read from a compiled program's text is what a person counts there."""

import jax
import jax.numpy as jnp
import pytest

from simclr_jax.runtime import compiled
from simclr_jax.runtime.compiled import Message

LOOP = """HloModule jit_f, is_scheduled=true

%fused (param_0: f32[8,128], param_1: s32[]) -> f32[1,128] {
  %param_0 = f32[8,128]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %part = f32[1,128]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={1,128}
}

%put (param_0: f32[8,128], param_1: f32[1,128], param_2: s32[]) -> f32[8,128] {
  %param_0 = f32[8,128]{1,0} parameter(0)
  %param_1 = f32[1,128]{1,0} parameter(1)
  %param_2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %all = f32[8,128]{1,0} dynamic-update-slice(%param_0, %param_1, %param_2, %zero)
}

%body (carry: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %carry = (s32[], f32[8,128]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%carry), index=0
  %x = f32[8,128]{1,0} get-tuple-element(%carry), index=1
  %one = f32[1,128]{1,0} fusion(%x, %i), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/model/slice"}
  %new = f32[8,128]{1,0} fusion(%x, %one, %i), kind=kLoop, calls=%put
  ROOT %next = (s32[], f32[8,128]{1,0}) tuple(%i, %new)
}

%condition (carry: (s32[], f32[8,128])) -> pred[] {
  %carry = (s32[], f32[8,128]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x: f32[8,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %start = (s32[], f32[8,128]{1,0}) tuple(%zero, %x)
  %loop = (s32[], f32[8,128]{1,0}) while(%start), condition=%condition, body=%body, TRIPS
  ROOT %end = f32[8,128]{1,0} get-tuple-element(%loop), index=1
}
""".replace("TRIPS", 'backend_config={"known_trip_count":{"n":"8"}}')


def test_a_loop_counts_as_often_as_it_runs_and_parts_of_arrays_as_parts():
    work = compiled.work(LOOP, devices=1)
    row, index = 128 * 4, 4
    assert work.kernels == 8 * 2
    assert work.bytes == 8 * ((row + index + row) + (row + index + row))
    assert work.unknown_loops == 0 and work.messages == {}


def test_a_loop_without_a_count_is_counted_once_and_told():
    work = compiled.work(LOOP.replace("known_trip_count", "other"), devices=1)
    assert (work.kernels, work.unknown_loops) == (2, 1)


def test_the_largest_kernels_come_first_with_where_they_come_from():
    first = compiled.largest(LOOP, devices=1, count=1)[0]
    assert first.times == 8 and first.name in ("one", "new")
    assert "jit(f)/model/slice" in [kernel.source for kernel in compiled.largest(LOOP, devices=1)]


def entry(line, more=""):
    head = "ENTRY %main (x: bf16[1024]) -> bf16[1024] {\n  %x = bf16[1024]{0} parameter(0)"
    return f"HloModule m\n{more}\n{head}\n  {line}\n}}\n"


@pytest.mark.parametrize(
    ("line", "kind", "sent"),
    [
        ("ROOT %y = bf16[1024]{0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add", "all-reduce", 2 * 3 / 4),
        ("ROOT %y = bf16[1024]{0} all-reduce(%x), replica_groups=[1,4]<=[4], to_apply=%add", "all-reduce", 2 * 3 / 4),
        ("ROOT %y = bf16[1024]{0} all-reduce-start(%x), replica_groups={{0,1}}, to_apply=%add", "all-reduce", 1),
        ("ROOT %y = bf16[4096]{0} all-gather(%x), replica_groups=[1,4]<=[4], dimensions={0}", "all-gather", 3),
        (
            "ROOT %y = (bf16[1024]{0}, bf16[4096]{0}) all-gather-start(%x), replica_groups=[1,4]<=[4]",
            "all-gather",
            3,
        ),
        (
            "ROOT %y = bf16[256]{0} reduce-scatter(%x), replica_groups=[1,4]<=[4]",
            "reduce-scatter",
            3 / 4,
        ),
        ("ROOT %y = bf16[1024]{0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}", "collective-permute", 1),
        (
            "ROOT %y = (bf16[1024]{0}, bf16[1024]{0}, u32[], u32[]) collective-permute-start(%x), "
            "source_target_pairs={{0,1}}",
            "collective-permute",
            1,
        ),
    ],
)
def test_a_device_sends_what_a_ring_makes_it_send(line, kind, sent):
    """Of an array of 2,048 bytes; an all-gather's device passes on the three parts that it is not the last to have."""
    message = compiled.work(entry(line), devices=4).messages[kind]
    assert message == Message(1, pytest.approx(2048 * sent, abs=8))


def test_the_end_of_a_message_is_no_other_one():
    text = entry("%s = bf16[1024]{0} all-reduce-start(%x)\n  ROOT %y = bf16[1024]{0} all-reduce-done(%s)")
    assert compiled.work(text, devices=2).messages["all-reduce"].count == 1


def test_memory_on_the_chip_is_not_the_devices_memory():
    text = entry("ROOT %y = bf16[1024]{0:T(1024)(128)(2,1)S(1)} copy(%x)")
    assert compiled.work(text, devices=1).bytes == 2048
    sent = entry("ROOT %y = bf16[1024]{0:T(1024)S(1)} all-reduce(%z)\n  %z = bf16[1024]{0:T(1024)S(1)} negate(%x)")
    assert compiled.work(sent, devices=2).messages["all-reduce"] == Message(1, 2048)


def test_of_branches_the_one_that_does_the_most_counts():
    branches = """
%none (p: bf16[1024]) -> bf16[1024] {
  ROOT %p = bf16[1024]{0} parameter(0)
}

%twice (p: bf16[1024]) -> bf16[1024] {
  %p = bf16[1024]{0} parameter(0)
  %a = bf16[1024]{0} negate(%p)
  ROOT %b = bf16[1024]{0} negate(%a)
}
"""
    text = entry("ROOT %y = bf16[1024]{0} conditional(%x, %x), branch_computations={%none, %twice}", branches)
    assert compiled.work(text, devices=1).kernels == 2


@pytest.mark.parametrize("trips", [1, 7])
def test_a_program_of_this_compiler_is_read(trips):
    """A CPU's program, whose arrays XLA counts itself: a loop over rows, each of which is written once."""

    def body(i, x):
        return x.at[i].set(jnp.sin(x[i]) * jnp.cos(x[i]))

    program = jax.jit(lambda x: jax.lax.fori_loop(0, trips, body, x), donate_argnums=0)  # else it is copied first
    text = program.lower(jax.ShapeDtypeStruct((trips, 4096), jnp.float32)).compile().as_text()
    work = compiled.work(text, devices=1)
    assert work.unknown_loops == 0
    assert work.bytes == pytest.approx(trips * 2 * 4 * 4096, rel=0.01)  # and the loop's counter
