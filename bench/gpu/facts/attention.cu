// Paged attention that reads pages where they lie, for few new tokens a sequence (decoding).
//
// Defined from outside: T (half or __nv_bfloat16), HEADS, KV_HEADS, HEAD_DIM (a multiple of 16), PAGE,
// SCALE; CLUSTER, the blocks that may share a sequence (8, or 1 where there are no clusters); WARPS.
// queries [B, S, HEADS * HEAD_DIM], keys and values [B, S, KV_HEADS * HEAD_DIM], pools
// [pages, PAGE, KV_HEADS, HEAD_DIM], block_tables [B, blocks], mask [B, 1, S, blocks * PAGE + S].
//
// A unit of work is one row tile of one head of keys: 16 rows, a row one query head of the group for one
// new token. So the keys of a group are read once for all of its query heads. `parts` blocks, a power
// of two up to CLUSTER, share a unit; the grid is their number for all units, rounded up to CLUSTER.
// Tokens go in tiles of 16 to the warps of a unit in turn; each warp keeps STAGES tiles in flight and
// its own running softmax (Milakov and Gimelshein, 2018); partial results meet in shared memory, within
// the block first, then across the cluster (the split of Flash-Decoding, without a second kernel).
#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr int GROUP = HEADS / KV_HEADS;
constexpr int ROWS = 16, TILE = 16;
constexpr int STAGES = 3;
constexpr int CHUNKS = HEAD_DIM / 8;                      // of 16 bytes, in a row of a tile
constexpr int TILE_HALVES = TILE * HEAD_DIM;
constexpr float MASKED = -3.0e4f;
constexpr float NOTHING = -1.0e30f;
constexpr float LOG2E = 1.4426950408889634f;

// Stages of keys and values; afterwards partial sums, which are smaller.
constexpr int RING_BYTES = WARPS * STAGES * 2 * TILE_HALVES * 2;
constexpr int SUM_BYTES = (WARPS + 1) * ROWS * (HEAD_DIM + 2) * 4;
constexpr int SHARED_BYTES = RING_BYTES > SUM_BYTES ? RING_BYTES : SUM_BYTES;

__device__ inline float wide(half x) { return __half2float(x); }
__device__ inline float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void narrow(float x, half* out) { *out = __float2half(x); }
__device__ inline void narrow(float x, __nv_bfloat16* out) { *out = __float2bfloat16(x); }

__device__ inline unsigned packed(float low, float high, half*) {
  const half2 both = __floats2half2_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&both);
}
__device__ inline unsigned packed(float low, float high, __nv_bfloat16*) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const unsigned*>(&both);
}

__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, half*) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                                __nv_bfloat16*) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline unsigned address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}
__device__ inline void fetch(unsigned to, const T* from, bool there) {
  const int size = there ? 16 : 0;  // The rest is filled with zeros.
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(size));
}
__device__ inline void load4(unsigned (&r)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}
__device__ inline void load4_transposed(unsigned (&r)[4], unsigned from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(from) : "memory");
}

#if CLUSTER > 1
__device__ inline void meet() {
  asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}
__device__ inline float read_of(unsigned block, const float* shared) {
  unsigned there;
  float value;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address(shared)), "r"(block));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(there) : "memory");
  return value;
}
#endif

// Bytes from a tile's begin to a chunk, swizzled so that eight rows lie in different banks.
__device__ inline unsigned place(int row, int chunk) {
  const int other = CHUNKS % 8 == 0 ? row & 7 : CHUNKS % 4 == 0 ? (row >> 1) & 3 : (row >> 2) & 1;
  return (row * CHUNKS + (chunk ^ other)) * 16;
}

// Partial results: [warp or block][row][HEAD_DIM sums, highest, weight]; `read` gives one float of one.
constexpr int WIDTH = HEAD_DIM + 2;

struct Merged {
  float mixed, highest, weight;
};

template <class Read>
__device__ inline Merged merge(int row, int d, int count, const Read& read) {
  const int at = row * WIDTH;
  Merged all = {0.0f, NOTHING, 0.0f};
  for (int w = 0; w < count; ++w) all.highest = fmaxf(all.highest, read(w, at + HEAD_DIM));
  for (int w = 0; w < count; ++w) {
    const float share = exp2f(read(w, at + HEAD_DIM) - all.highest);
    all.weight += read(w, at + HEAD_DIM + 1) * share;
    all.mixed += read(w, at + d) * share;
  }
  return all;
}

extern "C" __global__ void
#if CLUSTER > 1
__cluster_dims__(CLUSTER, 1, 1)
#endif
__launch_bounds__(32 * WARPS, HEAD_DIM <= 64 && WARPS <= 16 ? 16 / WARPS : 1) paged_attention(
    const T* __restrict__ queries, const T* __restrict__ keys, const T* __restrict__ values,
    const T* __restrict__ key_pool, const T* __restrict__ value_pool,
    const long long* __restrict__ block_tables, const T* __restrict__ mask, int units, int new_tokens,
    int blocks, int parts, T* __restrict__ attended) {
#if SHARED_LATER
  extern __shared__ __align__(128) unsigned char shared[];
#else
  __shared__ __align__(128) unsigned char shared[SHARED_BYTES];
#endif
  T* const kind = nullptr;
  const int row_tiles = (new_tokens * GROUP + ROWS - 1) / ROWS;
  // Blocks past the last unit do nothing, but must be there when the others of the cluster meet.
  const int part = blockIdx.x % parts, unit = min((int)blockIdx.x / parts, units - 1);
  const bool spare = blockIdx.x / parts >= units;
  const int kv = unit % KV_HEADS, tile_of_batch = unit / KV_HEADS;
  const int batch = tile_of_batch / row_tiles, first_row = tile_of_batch % row_tiles * ROWS;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int past = blocks * PAGE, total = past + new_tokens;
  const int tiles = spare ? 0 : (total + TILE - 1) / TILE;
  const int rows = spare ? 0 : min(ROWS, new_tokens * GROUP - first_row);
  const long long* table = block_tables + (long long)batch * blocks;
  const T* allowed = mask + (long long)batch * new_tokens * total;

  // This thread's part of the products: rows `mine` and `mine + 8`, columns from `pair` on.
  const int mine = lane / 4, pair = lane % 4 * 2;
  const auto token_of = [&](int row) { return min(first_row + row, new_tokens * GROUP - 1) / GROUP; };
  const T* added[2] = {allowed + (long long)token_of(mine) * total,
                       allowed + (long long)token_of(mine + 8) * total};

  unsigned query[HEAD_DIM / 16][4];
  for (int half_of = 0; half_of < 2; ++half_of) {
    const int row = mine + 8 * half_of, own = first_row + row;
    const T* from = queries + (((long long)batch * new_tokens + token_of(row)) * HEADS + kv * GROUP +
                               (own % GROUP)) * HEAD_DIM;
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; ++step) {
      for (int high = 0; high < 2; ++high) {
        const unsigned both = *reinterpret_cast<const unsigned*>(from + step * 16 + high * 8 + pair);
        query[step][half_of + 2 * high] = row < rows ? both : 0u;
      }
    }
  }

  unsigned char* ring = shared + warp * (STAGES * 2 * TILE_HALVES * 2);
  const unsigned ring_at = address(ring);
  constexpr unsigned TILE_BYTES = TILE_HALVES * 2;

  const auto start = [&](int tile, long long page_at, int stage) {
    const unsigned to = ring_at + stage * 2 * TILE_BYTES;
#pragma unroll
    for (int i = 0; i < TILE * CHUNKS / 32; ++i) {
      const int index = lane + 32 * i, row = index / CHUNKS, chunk = index % CHUNKS;
      const int token = tile * TILE + row;
      const T *key = key_pool, *value = value_pool;
      long long slot;
      if (PAGE % TILE == 0 && token < past) {
        slot = page_at + row;
      } else if (token < past) {
        slot = table[token / PAGE] * PAGE + token % PAGE;
      } else {
        slot = (long long)batch * new_tokens + min(token, total - 1) - past;
        key = keys;
        value = values;
      }
      const long long at = (slot * KV_HEADS + kv) * HEAD_DIM + chunk * 8;
      fetch(to + place(row, chunk), key + at, token < total);
      fetch(to + TILE_BYTES + place(row, chunk), value + at, token < total);
    }
  };

  float sum[HEAD_DIM / 8][4] = {};
  float highest[2] = {NOTHING, NOTHING}, weight[2] = {0.0f, 0.0f};

  const auto attend = [&](int tile, int stage) {
    const unsigned at = ring_at + stage * 2 * TILE_BYTES;
    float extra[2][4];
#pragma unroll
    for (int side = 0; side < 2; ++side)
      for (int i = 0; i < 4; ++i) {
        const int token = tile * TILE + side * 8 + pair + i % 2;
        extra[side][i] = token < total ? wide(added[i / 2][token]) : 2 * MASKED;
      }
    float score[2][4] = {};
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; ++step) {
      unsigned key[4];
      load4(key, at + place(lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
      multiply(score[0], query[step], key[0], key[1], kind);
      multiply(score[1], query[step], key[2], key[3], kind);
    }
    float top[2] = {highest[0], highest[1]};
#pragma unroll
    for (int side = 0; side < 2; ++side)
      for (int i = 0; i < 4; ++i) {
        const bool there = extra[side][i] >= MASKED;
        score[side][i] = there ? (score[side][i] * SCALE + extra[side][i]) * LOG2E : NOTHING;
        top[i / 2] = fmaxf(top[i / 2], score[side][i]);
      }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(0xffffffffu, top[r], 2));
      const float kept = exp2f(highest[r] - top[r]);
      highest[r] = top[r];
      weight[r] *= kept;
      for (int block = 0; block < HEAD_DIM / 8; ++block) {
        sum[block][2 * r] *= kept;
        sum[block][2 * r + 1] *= kept;
      }
    }
    // A row of which nothing is allowed yet has NOTHING as its top: its shares must be none, not one.
#pragma unroll
    for (int side = 0; side < 2; ++side)
      for (int i = 0; i < 4; ++i) {
        const float share = score[side][i] > NOTHING ? exp2f(score[side][i] - highest[i / 2]) : 0.0f;
        score[side][i] = share;
        weight[i / 2] += share;
      }
    const unsigned shares[4] = {
        packed(score[0][0], score[0][1], kind), packed(score[0][2], score[0][3], kind),
        packed(score[1][0], score[1][1], kind), packed(score[1][2], score[1][3], kind)};
#pragma unroll
    for (int two = 0; two < HEAD_DIM / 16; ++two) {
      unsigned value[4];
      load4_transposed(value, at + TILE_BYTES + place(lane % 16, two * 2 + lane / 16));
      multiply(sum[2 * two], shares, value[0], value[1], kind);
      multiply(sum[2 * two + 1], shares, value[2], value[3], kind);
    }
  };

  // The warps of all blocks of the cluster take tiles in turn. Each looks at 32 of its tiles at a time:
  // a lane tells whether its tile has an allowed token, and where its page begins.
  const int lanes_apart = parts * WARPS, own = part * WARPS + warp;
  const int queried = token_of(rows - 1) - token_of(0) + 1;
  const T* seen = allowed + (long long)token_of(0) * total;
  for (int base = own; base < tiles; base += 32 * lanes_apart) {
    const int look = base + lane * lanes_apart;
    bool any = false;
    long long page_at = 0;
    if (look < tiles) {
      if (PAGE % TILE == 0 && look * TILE < past)
        page_at = table[look * TILE / PAGE] * PAGE + look * TILE % PAGE;
      const int end = min(TILE, total - look * TILE);
      for (int q = 0; q < queried && !any; ++q)
        for (int i = 0; i < end; ++i) any |= wide(seen[(long long)q * total + look * TILE + i]) >= MASKED;
    }
    unsigned waiting = __ballot_sync(0xffffffffu, any), running = waiting;
    const int count = __popc(waiting);
    const auto next = [&](int stage) {
      if (waiting) {
        const int which = __ffs(waiting) - 1;
        waiting &= waiting - 1;
        start(base + which * lanes_apart, __shfl_sync(0xffffffffu, page_at, which), stage);
      }
      asm volatile("cp.async.commit_group;");
    };
    for (int stage = 0; stage < STAGES - 1; ++stage) next(stage);
    for (int done = 0; done < count; ++done) {
      next((done + STAGES - 1) % STAGES);
      asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
      __syncwarp();
      const int which = __ffs(running) - 1;
      running &= running - 1;
      attend(base + which * lanes_apart, done % STAGES);
      __syncwarp();
    }
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncwarp();
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    weight[r] += __shfl_xor_sync(0xffffffffu, weight[r], 1);
    weight[r] += __shfl_xor_sync(0xffffffffu, weight[r], 2);
  }

  float* partial = reinterpret_cast<float*>(shared);
  __syncthreads();
  for (int r = 0; r < 2; ++r) {
    float* out = partial + (warp * ROWS + mine + 8 * r) * WIDTH;
    for (int block = 0; block < HEAD_DIM / 8; ++block) {
      out[block * 8 + pair] = sum[block][2 * r];
      out[block * 8 + pair + 1] = sum[block][2 * r + 1];
    }
    if (pair == 0) {
      out[HEAD_DIM] = highest[r];
      out[HEAD_DIM + 1] = weight[r];
    }
  }
  __syncthreads();

  const auto put = [&](int row, int d, const Merged& all) {
    const int own_row = first_row + row;
    T* out = attended + (((long long)batch * new_tokens + own_row / GROUP) * HEADS + kv * GROUP +
                         own_row % GROUP) * HEAD_DIM + d;
    narrow(all.weight > 0.0f ? all.mixed / all.weight : 0.0f, out);
  };

  float* merged = partial + WARPS * ROWS * WIDTH;
  for (int index = threadIdx.x; index < rows * HEAD_DIM; index += blockDim.x) {
    const int row = index / HEAD_DIM, d = index % HEAD_DIM;
    const auto of_warp = [&](int w, int at) { return partial[w * ROWS * WIDTH + at]; };
    const Merged all = merge(row, d, WARPS, of_warp);
    if (CLUSTER == 1 || parts == 1) {
      put(row, d, all);
    } else {
      merged[row * WIDTH + d] = all.mixed;
      if (d == 0) {
        merged[row * WIDTH + HEAD_DIM] = all.highest;
        merged[row * WIDTH + HEAD_DIM + 1] = all.weight;
      }
    }
  }
#if CLUSTER > 1
  if (parts == 1) return;
  meet();
  const int step = blockDim.x * parts, first = blockIdx.x % CLUSTER - part;
  for (int index = part * blockDim.x + threadIdx.x; index < rows * HEAD_DIM; index += step) {
    const int row = index / HEAD_DIM, d = index % HEAD_DIM;
    const auto of_block = [&](int b, int at) { return read_of(first + b, merged + at); };
    put(row, d, merge(row, d, parts, of_block));
  }
  meet();
#endif
}
