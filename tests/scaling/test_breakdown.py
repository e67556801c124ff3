"""What a step spends its time on: read from programs as XLA's TPU compiler writes them."""

import pytest

from mux_jax.scaling import breakdown, program
from mux_jax.scaling.topologies import CHIPS

HLO = """HloModule step

%fused_product (p0: bf16[8192,512], p1: bf16[512,2048]) -> bf16[8192,2048] {
  %p0 = bf16[8192,512]{1,0} parameter(0)
  %p1 = bf16[512,2048]{1,0} parameter(1)
  %erf.1 = bf16[8192,512]{1,0} erf(%p0)
  ROOT %convolution.1 = bf16[8192,2048]{1,0} convolution(%erf.1, %p1), dim_labels=bf_io->bf
}

%fused_attention (p2: bf16[16,8,512,64], p3: bf16[16,8,512,64]) -> f32[16,8,512,512] {
  %p2 = bf16[16,8,512,64]{3,2,1,0} parameter(0)
  %p3 = bf16[16,8,512,64]{3,2,1,0} parameter(1)
  ROOT %convolution.2 = f32[16,8,512,512]{3,2,1,0} convolution(%p2, %p3), window={size=16x8 stride=15x7 lhs_dilate=16x8}, dim_labels=01bf_01oi->01bf
}

%fused_gradient (p4: bf16[16,512,512], p5: bf16[16,512,512]) -> bf16[512,512,1] {
  %p4 = bf16[16,512,512]{2,1,0} parameter(0)
  %p5 = bf16[16,512,512]{2,1,0} parameter(1)
  ROOT %convolution.3 = bf16[512,512,1]{1,0,2} convolution(%p4, %p5), window={size=16}, dim_labels=0fb_0io->bf0
}

%fused_heads (p6: bf16[8192,512], p7: bf16[8,512,64]) -> bf16[8192,8,64] {
  %p6 = bf16[8192,512]{1,0} parameter(0)
  %p7 = bf16[8,512,64]{2,1,0} parameter(1)
  %bitcast.1 = bf16[8192,1,512]{2,1,0} bitcast(%p6)
  ROOT %convolution.4 = bf16[8192,8,64]{2,1,0} convolution(%bitcast.1, %p7), window={size=8 pad=7_7 rhs_reversal=1}, dim_labels=b0f_0io->b0f
}

%body (p: (s32[], bf16[16,8,512,64])) -> (s32[], bf16[16,8,512,64]) {
  %p = (s32[], bf16[16,8,512,64]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = bf16[16,8,512,64]{3,2,1,0} get-tuple-element(%p), index=1
  %fusion.2 = f32[16,8,512,512]{3,2,1,0} fusion(%x, %x), kind=kOutput, calls=%fused_attention, metadata={op_name="jit(step)/transpose(jvp(MuxModel.encode))/encoder/layers/layers/attention/dot_general"}, backend_config={"window_config":{"estimated_cycles":"3000"}}
  %kernel.1 = bf16[16,8,512,64]{3,2,1,0} custom-call(%x), custom_call_target="tpu_custom_call", metadata={op_name="jit(step)/jvp(MuxModel.encode)/encoder/layers/layers/attention/pallas_call"}, backend_config={"custom_call_config":{"cost_estimate":{"flops":"5000000000","transcendentals":"1","bytes_accessed":"1"}}}
  ROOT %t = (s32[], bf16[16,8,512,64]) tuple(%i, %kernel.1)
}

%condition (q: (s32[], bf16[16,8,512,64])) -> pred[] {
  %q = (s32[], bf16[16,8,512,64]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %four = s32[] constant(4)
  ROOT %less = pred[] compare(%j, %four), direction=LT
}

ENTRY %main (a: bf16[8192,512], b: bf16[512,2048], c: (s32[], bf16[16,8,512,64]), d: bf16[16,512,512]) -> bf16[] {
  %a = bf16[8192,512]{1,0} parameter(0)
  %b = bf16[512,2048]{1,0} parameter(1)
  %c = (s32[], bf16[16,8,512,64]) parameter(2)
  %d = bf16[16,512,512]{2,1,0} parameter(3)
  %fusion.1 = bf16[8192,2048]{1,0} fusion(%a, %b), kind=kOutput, calls=%fused_product, metadata={op_name="jit(step)/jvp(MuxModel.encode)/encoder/layers/layers/intermediate/dot_general"}, backend_config={"window_config":{"estimated_cycles":"10000"}}
  %fusion.3 = bf16[512,512,1]{1,0,2} fusion(%d, %d), kind=kOutput, calls=%fused_gradient, metadata={op_name="jit(step)/optimizer/dot_general"}, backend_config={"window_config":{"estimated_cycles":"500"}}
  %e = bf16[8,512,64]{2,1,0} parameter(4)
  %fusion.4 = bf16[8192,8,64]{2,1,0} fusion(%a, %e), kind=kOutput, calls=%fused_heads, backend_config={"window_config":{"estimated_cycles":"900"}}
  %copy.1 = bf16[8192,512]{0,1} copy(%a), backend_config={"window_config":{"estimated_cycles":"700"}}
  ROOT %while.1 = (s32[], bf16[16,8,512,64]) while(%c), condition=%condition, body=%body
}
"""  # noqa: E501  # as it is written


def test_operations_have_their_cycles_bytes_and_flops_and_loops_their_turns():
    found = program.operations(HLO)
    assert sum(x.times * x.cycles for x in found) == program.cycles(HLO) == 10_000 + 500 + 900 + 700 + 4 * 3000
    product = next(x for x in found if x.cycles == 10_000)
    assert product.flops == 2 * 8192 * 512 * 2048 and product.kind == "product"
    assert product.bytes == 2 * (8192 * 512 + 512 * 2048 + 8192 * 2048)
    attention = next(x for x in found if x.cycles == 3000)
    assert (attention.flops, attention.times) == (2 * 16 * 8 * 512 * 64 * 512, 4)
    gradient = next(x for x in found if x.cycles == 500)
    assert gradient.flops == 2 * 16 * 512 * 512 * 512
    heads = next(x for x in found if x.cycles == 900)
    assert heads.flops == 2 * 8192 * 512 * 8 * 64
    assert next(x for x in found if x.cycles == 700).kind == "copy"


def test_lines_are_by_part_pass_and_kind_and_kernels_are_guessed_by_the_roofline():
    chip, clock = CHIPS["v5e"], 1e9
    found = {
        (line.part, line.backward, line.kind): line for line in breakdown.lines(program.operations(HLO), chip, clock)
    }
    assert found["feed-forward", False, "product"].seconds == pytest.approx(10_000 / clock)
    assert found["attention", True, "product"].seconds == pytest.approx(12_000 / clock)
    assert found["optimiser", False, "product"].flops == 2 * 16 * 512**3
    kernel = found["attention", False, "kernel"]
    assert kernel.guessed and kernel.flops == 4 * 5e9
    assert kernel.seconds == pytest.approx(4 * 5e9 / chip.flops / breakdown.KERNEL_SHARE)
    assert not any(line.guessed for key, line in found.items() if key[2] != "kernel")


@pytest.mark.parametrize(
    "scope, part",
    (
        ("jit(step)/jvp(MuxModel.encode)/encoder/closed_call/layers/layers/attention/query/dot_general", "attention"),
        ("jit(step)/jvp(MuxModel.encode)/encoder/closed_call/layers/layers/attention_norm/reduce_sum", "LayerNorm"),
        ("jit(step)/jvp(MuxModel.encode)/encoder/closed_call/layers/layers/output/cond/dot_general", "feed-forward"),
        ("jit(step)/jvp(MuxModel.encode)/encoder/closed_call/layers/layers/erf", "feed-forward"),
        ("jit(logits)/MuxModel/encoder/layers_3/intermediate/dot_general", "feed-forward"),
        ("jit(step)/jvp(vocabulary)/shard_map/dot_general", "vocabulary"),
        ("jit(step)/jvp(MuxModel.encode)/embeddings.setup/broadcast_in_dim", "embeddings"),
        ("jit(step)/jvp(MuxModel.encode)/multiplexer/reduce_sum", "multiplexer"),
        ("jit(step)/transpose(jvp(MuxModel.x))/demultiplexer.retrieval/norms_1/add_any", "demultiplexer"),
        ("jit(step)/transpose(jvp(MuxModel.x))/demultiplexer.retrieval/vmap()/scatter-add", "demultiplexer"),
        ("jit(step)/optimizer/add", "optimiser"),
        ("", "the rest"),
    ),
)
def test_parts_are_those_of_the_model(scope, part):
    assert breakdown.part_of(scope) == part
