"""Measured kernels and links in every layout that is read."""

from __future__ import annotations

import gzip

from fuzz.kind import lines

LAYERS = ("layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj", "embedding")
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
DENSE = "layer,tokens,time_us\n" + "".join(
    f"{layer},{size},{3 + size / 100}\n" for layer in (*LAYERS, "final_layernorm") for size in _SIZES
)
HEADS = "layer,sequences,time_us\n" + "".join(
    f"{layer},{size},{5 + size}\n" for layer in ("lm_head", "sampler") for size in _SIZES[:8]
)
ATTENTION = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n" + "".join(
    f"{chunk},{history},{decodes},{context},{4 + chunk / 9 + decodes + context * decodes / 99}\n"
    for chunk in (0, 16, 64, 256)
    for history in ((0, 64, 256) if chunk else (0,))
    for decodes in (0, 1, 4, 16)
    for context in ((16, 64, 256) if decodes else (0,))
    if chunk or decodes
)
BUNDLE_META = "hardware: H100\nmodel: meta-llama/Llama-3.1-8B\nvariant: bf16\n"
EXPERTS = (
    "hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,moe_dtype,num_tokens,distribution,"
    "kernel_source,latency\n"
    + "".join(f"512,1024,2,8,1,1,bfloat16,{size},balanced,x,{size / 1000}\n" for size in (1, 16, 256))
)
_OLD_PARTS = [
    "embedding",
    "input_layernorm",
    "q_proj",
    "k_proj",
    "v_proj",
    "rope",
    "attn",
    "o_proj",
    "post_layernorm",
    "gate_proj",
    "up_proj",
    "act_fn",
    "down_proj",
    "final_layernorm",
    "lm_head",
]
OLD_LAYERS = "layer_name,input,kv_cache,tp_size,latency(ns)\n" + "".join(
    f"{name},{size},0,1,{1000 + size}\n" for name in _OLD_PARTS for size in (1, 2, 16, 32, 64)
)
OLD_ATTENTION = (
    "time_stats.attn_prefill.median,time_stats.attn_decode.median,batch_size,prefill_chunk_size,kv_cache_size,"
    "is_prefill\n0.020,,1,32,64,True\n,0.010,1,0,32,False\n,0.030,64,0,32,False\n"
)
_VIDUR = [
    "emb",
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "input_layernorm",
    "post_attention_layernorm",
    "add",
]
VIDUR = (
    ",".join(f"time_stats.{name}.median" for name in _VIDUR)
    + ",n_head,n_kv_head,n_embd,n_expanded_embd,vocab_size,num_tokens,num_tensor_parallel_workers\n"
    + "".join(f"{','.join(['0.01'] * len(_VIDUR))},8,4,512,1024,1000,{size},1\n" for size in (1, 64, 512))
)
SEND_RECEIVE = "time_stats.send_recv.median,num_workers,devices_per_node,size\n" + "".join(
    f"0.0{size % 9 + 1},2,{per_node},{2**size}\n" for per_node in (1, 2) for size in range(11, 20)
)
ALL_REDUCE = "time_stats.all_reduce.median,num_workers,devices_per_node,size\n" + "".join(
    f"0.0{size % 9 + 1},2,{per_node},{2**size}\n" for per_node in (1, 2) for size in range(11, 20)
)
BUNDLE = "p/H100/meta-llama/Llama-3.1-8B/bf16"


def bundle() -> dict[str, bytes]:
    """LLMServingSim's present layout."""
    return {
        f"{BUNDLE}/{name}": text.encode()
        for name, text in (
            ("meta.yaml", BUNDLE_META),
            ("tp1/dense.csv", DENSE),
            ("tp1/per_sequence.csv", HEADS),
            ("tp1/attention.csv", ATTENTION),
        )
    }


def network() -> dict[str, bytes]:
    """Vidur's measurements of links."""
    return {
        f"net/{machine}/{name}.csv": text.encode()
        for machine in ("a100_dgx", "h100_dgx")
        for name, text in (("send_recv", SEND_RECEIVE), ("all_reduce", ALL_REDUCE))
    }


def real_turns() -> dict[str, bytes]:
    """The turns of two real ranks, one of which has a request."""
    turn = {
        "rank": 0,
        "adds": [[5, "r0", 0]],
        "start_dp_wave": [],
        "scheduled": [["r0", 4]],
        "engines_running": True,
        "step_counter": 0,
        "wave": 0,
        "executed": True,
        "unfinished": True,
        "goes_on": True,
        "fwd": 0,
    }
    rows = {
        "requests": [{"req_id": "r0", "sent_ns": 1, "input_toks": 4, "output_toks": 2}],
        "turns": [turn, {**turn, "rank": 1, "adds": [], "start_dp_wave": [[6, 0, "0"]], "scheduled": None}],
        "workers": [{"stage": 0}],
    }
    return {f"t/{name}.jsonl.gz": gzip.compress(lines(own)) for name, own in rows.items()}
