// Paged attention without copying the pages side by side: one block a query and head.
//
// Defined from outside: T (half or __nv_bfloat16), HEADS, KV_HEADS, HEAD_DIM, PAGE, SCALE.
// queries [B, S, HEADS * HEAD_DIM], keys and values [B, S, KV_HEADS * HEAD_DIM], pools
// [pages, PAGE, KV_HEADS, HEAD_DIM], block_tables [B, blocks], mask [B, 1, S, blocks * PAGE + S].
#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr int WARPS = 8;
constexpr int PER_LANE = (HEAD_DIM + 31) / 32;
constexpr float MASKED = -3.0e4f;

__device__ inline float wide(half x) { return __half2float(x); }
__device__ inline float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void narrow(float x, half* out) { *out = __float2half(x); }
__device__ inline void narrow(float x, __nv_bfloat16* out) { *out = __float2bfloat16(x); }

extern "C" __global__ void paged_attention(const T* queries, const T* keys, const T* values,
                                           const T* key_pool, const T* value_pool,
                                           const long long* block_tables, const T* mask,
                                           int new_tokens, int blocks, T* attended) {
  const int row = blockIdx.x, head = blockIdx.y;
  const int batch = row / new_tokens;
  const int kv = head / (HEADS / KV_HEADS);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int past = blocks * PAGE, total = past + new_tokens;
  const T* allowed = mask + (long long)row * total;
  const long long* table = block_tables + (long long)batch * blocks;

  float query[PER_LANE], sum[PER_LANE];
  for (int i = 0; i < PER_LANE; ++i) {
    const int d = lane + 32 * i;
    query[i] = d < HEAD_DIM ? wide(queries[((long long)row * HEADS + head) * HEAD_DIM + d]) * SCALE : 0.0f;
    sum[i] = 0.0f;
  }
  float highest = -1.0e30f, weight = 0.0f;
  for (int token = warp; token < total; token += WARPS) {
    const float added = wide(allowed[token]);
    if (added < MASKED) continue;
    const T *key, *value;
    if (token < past) {
      const long long slot = table[token / PAGE] * PAGE + token % PAGE;
      key = key_pool + (slot * KV_HEADS + kv) * HEAD_DIM;
      value = value_pool + (slot * KV_HEADS + kv) * HEAD_DIM;
    } else {
      const long long own = (long long)batch * new_tokens + token - past;
      key = keys + (own * KV_HEADS + kv) * HEAD_DIM;
      value = values + (own * KV_HEADS + kv) * HEAD_DIM;
    }
    float score = 0.0f;
    for (int i = 0; i < PER_LANE; ++i) {
      const int d = lane + 32 * i;
      if (d < HEAD_DIM) score += query[i] * wide(key[d]);
    }
    for (int step = 16; step; step /= 2) score += __shfl_xor_sync(0xffffffffu, score, step);
    score += added;
    const float top = fmaxf(highest, score);
    const float kept = __expf(highest - top), own = __expf(score - top);
    for (int i = 0; i < PER_LANE; ++i) {
      const int d = lane + 32 * i;
      sum[i] = sum[i] * kept + (d < HEAD_DIM ? own * wide(value[d]) : 0.0f);
    }
    weight = weight * kept + own;
    highest = top;
  }

  __shared__ float sums[WARPS][PER_LANE * 32], highests[WARPS], weights[WARPS];
  for (int i = 0; i < PER_LANE; ++i) sums[warp][lane + 32 * i] = sum[i];
  if (lane == 0) {
    highests[warp] = highest;
    weights[warp] = weight;
  }
  __syncthreads();
  for (int d = threadIdx.x; d < HEAD_DIM; d += blockDim.x) {
    float top = -1.0e30f, all = 0.0f, mixed = 0.0f;
    for (int w = 0; w < WARPS; ++w) top = fmaxf(top, highests[w]);
    for (int w = 0; w < WARPS; ++w) {
      const float share = __expf(highests[w] - top);
      all += weights[w] * share;
      mixed += sums[w][d] * share;
    }
    narrow(all > 0.0f ? mixed / all : 0.0f, attended + ((long long)row * HEADS + head) * HEAD_DIM + d);
  }
}
