// Paged attention for Hopper and later: reads pages where they lie, and writes no scratch memory.
//
// Defined from outside, beside what halves.cuh wants: HEADS, KV_HEADS, HEAD_DIM (a multiple of 16), PAGE,
// SCALE of the scores where it is no input, WARPS of a block, STAGES, the tiles that a warp has in its ring, PREFILL_ROWS, the rows of a
// sequence from which on a block takes several row tiles, and CAPPED and SINKS (1 or 0): whether scores are
// bent below a cap, and whether heads have a score that takes weight and gives nothing. The blocks of a
// CLUSTER (8, or 1 where there are no clusters) may share a sequence.
//
// A row is one query head of a group for one new token; the keys of a group are so read once for all of
// its query heads. A tile is 16 tokens or 16 rows. Softmax is online (Milakov and Gimelshein, 2018).
//
// Few rows (decoding): a unit of work is one row tile of one head of keys. `parts` blocks, a power of two
// up to CLUSTER, share a unit; their warps take its tiles of tokens in turn, and join what they have
// through distributed shared memory (the split of Flash-Decoding, without a second kernel).
// Many rows (prefill): a unit is WARPS row tiles, one a warp, that share the tiles of tokens as they come.
//
// The grid is `parts` blocks for every unit, rounded up to CLUSTER.
constexpr int GROUP = HEADS / KV_HEADS;
constexpr int ROWS = 16, TILE = 16;
constexpr int CHUNKS = HEAD_DIM / 8;  // Of 16 bytes, in a row of a tile.
constexpr unsigned TILE_BYTES = TILE * HEAD_DIM * 2;
constexpr float MASKED = -3.0e4f;
constexpr float NOTHING = -1.0e30f;
constexpr float LOG2E = 1.4426950408889634f;

// Stages of keys and values for each warp; afterwards partial results, which are smaller.
constexpr int WIDTH = HEAD_DIM + 2;  // Of a row's partial result: sums, highest, weight.
constexpr int RING_BYTES = WARPS * STAGES * 2 * TILE_BYTES;
constexpr int PARTIAL_BYTES = (WARPS + 1) * ROWS * WIDTH * 4;
constexpr int SHARED_BYTES = RING_BYTES > PARTIAL_BYTES ? RING_BYTES : PARTIAL_BYTES;

// Bytes from a tile's begin to a chunk, swizzled so that eight rows lie in different banks.
__device__ inline unsigned place(int row, int chunk) {
  const int other = CHUNKS % 8 == 0 ? row & 7 : CHUNKS % 4 == 0 ? (row >> 1) & 3 : (row >> 2) & 1;
  return (row * CHUNKS + (chunk ^ other)) * 16;
}

// What a block works on, the same for all of its threads.
struct Call {
  const Half *queries, *keys, *values, *key_pool, *value_pool;
  const long long* table;  // Of this sequence.
  const Half* allowed;     // Of this sequence: [new_tokens, total].
  Half* attended;
  int new_tokens, batch, kv, past, total;
  float scale;        // Of the scores.
  float cap;          // Of the scores, where they are capped.
  const Half* sinks;  // Of all heads, where they have some.

  __device__ int all_rows() const { return new_tokens * GROUP; }
  __device__ int token_of(int row) const { return min(row, all_rows() - 1) / GROUP; }
  // The first element of a row's query or output.
  __device__ long long of_row(int row) const {
    return (((long long)batch * new_tokens + row / GROUP) * HEADS + kv * GROUP + row % GROUP) * HEAD_DIM;
  }
  // A product of a query and a key as a score, before the mask is added.
  __device__ float score_of(float product) const {
#if CAPPED
    // tanh by one exponential; it is one where that is infinite.
    return cap * (1.0f - 2.0f / (exp2f(product * scale / cap * (2.0f * LOG2E)) + 1.0f));
#else
    return product * scale;
#endif
  }
  // What a row's sums have to be multiplied with.
  __device__ float share_of(int row, float highest, float weight) const {
    if (!(weight > 0.0f)) return 0.0f;
#if SINKS
    const float sink = wide(sinks[kv * GROUP + row % GROUP]) * LOG2E, top = fmaxf(highest, sink);
    const float kept = exp2f(highest - top);
    return kept / (weight * kept + exp2f(sink - top));
#else
    return 1.0f / weight;
#endif
  }
  // Where a tile's page begins among the pool's tokens, for tiles that lie in one page.
  __device__ long long page_of(int tile) const {
    const int token = tile * TILE;
    return PAGE % TILE == 0 && token < past ? table[token / PAGE] * PAGE + token % PAGE : 0;
  }
  // Whether any of the rows from `first` to before `end` may see a token of the tile.
  __device__ bool sees(int first, int end, int tile) const {
    const int from = tile * TILE, width = min(TILE, total - from);
    for (int q = token_of(end - 1); q >= token_of(first); --q) {
      bool any = false;
      for (int i = 0; i < width; ++i) any |= wide(allowed[(long long)q * total + from + i]) >= MASKED;
      if (any) return true;
    }
    return false;
  }
};

// Start to bring a tile of keys and values to shared memory.
__device__ inline void start(const Call& call, int tile, long long page_at, unsigned to) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < TILE * CHUNKS / 32; ++i) {
    const int index = lane + 32 * i, row = index / CHUNKS, chunk = index % CHUNKS;
    const int token = tile * TILE + row;
    const Half *key = call.key_pool, *value = call.value_pool;
    long long slot;
    if (PAGE % TILE == 0 && token < call.past) {
      slot = page_at + row;
    } else if (token < call.past) {
      slot = call.table[token / PAGE] * PAGE + token % PAGE;
    } else {
      slot = (long long)call.batch * call.new_tokens + min(token, call.total - 1) - call.past;
      key = call.keys;
      value = call.values;
    }
    const long long at = (slot * KV_HEADS + call.kv) * HEAD_DIM + chunk * 8;
    fetch(to + place(row, chunk), key + at, token < call.total);
    fetch(to + TILE_BYTES + place(row, chunk), value + at, token < call.total);
  }
}

// A warp's running softmax over 16 rows. A thread holds rows `mine` and `mine + 8` of them, and of each
// eight columns of a product the two from `pair` on.
struct Running {
  unsigned query[HEAD_DIM / 16][4];
  const Half* added[2];
  float sum[HEAD_DIM / 8][4];
  float highest[2], weight[2];
  int mine, pair;

  __device__ void begin(const Call& call, int first_row) {
    const int lane = threadIdx.x % 32;
    mine = lane / 4;
    pair = lane % 4 * 2;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int row = first_row + mine + 8 * side;
      const bool there = row < call.all_rows();
      const Half* from = call.queries + call.of_row(there ? row : 0);
      added[side] = call.allowed + (long long)call.token_of(row) * call.total;
#pragma unroll
      for (int step = 0; step < HEAD_DIM / 16; ++step)
        for (int high = 0; high < 2; ++high) {
          const unsigned both = *reinterpret_cast<const unsigned*>(from + step * 16 + high * 8 + pair);
          query[step][side + 2 * high] = there ? both : 0u;
        }
      highest[side] = NOTHING;
      weight[side] = 0.0f;
    }
#pragma unroll
    for (int block = 0; block < HEAD_DIM / 8; ++block)
      for (int i = 0; i < 4; ++i) sum[block][i] = 0.0f;
  }

  // Take in a tile that lies at `at` in shared memory.
  __device__ void attend(const Call& call, int tile, unsigned at) {
    const int lane = threadIdx.x % 32;
    float extra[2][4], score[2][4] = {};
#pragma unroll
    for (int side = 0; side < 2; ++side)
      for (int i = 0; i < 4; ++i) {
        const int token = tile * TILE + side * 8 + pair + i % 2;
        extra[side][i] = token < call.total ? wide(added[i / 2][token]) : 2 * MASKED;
      }
#pragma unroll
    for (int step = 0; step < HEAD_DIM / 16; ++step) {
      unsigned key[4];
      load4(key, at + place(lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
      multiply(score[0], query[step], key[0], key[1]);
      multiply(score[1], query[step], key[2], key[3]);
    }
    float top[2] = {highest[0], highest[1]};
#pragma unroll
    for (int side = 0; side < 2; ++side)
      for (int i = 0; i < 4; ++i) {
        const bool there = extra[side][i] >= MASKED;
        score[side][i] = there ? (call.score_of(score[side][i]) + extra[side][i]) * LOG2E : NOTHING;
        top[i / 2] = fmaxf(top[i / 2], score[side][i]);
      }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      top[r] = fmaxf(top[r], __shfl_xor_sync(EVERYONE, top[r], 1));
      top[r] = fmaxf(top[r], __shfl_xor_sync(EVERYONE, top[r], 2));
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
    const unsigned shares[4] = {packed(score[0][0], score[0][1]), packed(score[0][2], score[0][3]),
                                packed(score[1][0], score[1][1]), packed(score[1][2], score[1][3])};
#pragma unroll
    for (int two = 0; two < HEAD_DIM / 16; ++two) {
      unsigned value[4];
      load4_transposed(value, at + TILE_BYTES + place(lane % 16, two * 2 + lane / 16));
      multiply(sum[2 * two], shares, value[0], value[1]);
      multiply(sum[2 * two + 1], shares, value[2], value[3]);
    }
  }

  // Add up what the threads of a row hold of its weight.
  __device__ void end() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      weight[r] += __shfl_xor_sync(EVERYONE, weight[r], 1);
      weight[r] += __shfl_xor_sync(EVERYONE, weight[r], 2);
    }
  }

  __device__ void write(const Call& call, int first_row) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = first_row + mine + 8 * r;
      if (row >= call.all_rows()) continue;
      const float share = call.share_of(row, highest[r], weight[r]);
      Half* out = call.attended + call.of_row(row);
      for (int block = 0; block < HEAD_DIM / 8; ++block)
        *reinterpret_cast<unsigned*>(out + block * 8 + pair) =
            packed(sum[block][2 * r] * share, sum[block][2 * r + 1] * share);
    }
  }
};

// The partial results of one row joined; `read` gives one float of one of them.
struct Joined {
  float mixed, highest, weight;
};
template <class Read>
__device__ inline Joined join(int row, int d, int count, const Read& read) {
  const int at = row * WIDTH;
  Joined all = {0.0f, NOTHING, 0.0f};
  for (int i = 0; i < count; ++i) all.highest = fmaxf(all.highest, read(i, at + HEAD_DIM));
  for (int i = 0; i < count; ++i) {
    const float share = exp2f(read(i, at + HEAD_DIM) - all.highest);
    all.weight += read(i, at + HEAD_DIM + 1) * share;
    all.mixed += read(i, at + d) * share;
  }
  return all;
}

// One row tile, its tokens split over the warps of `parts` blocks. A spare block has no rows: it is there
// because the blocks of a cluster meet.
__device__ inline void few_rows(const Call& call, int first_row, int parts, int part, bool spare,
                                unsigned char* shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int rows = spare ? 0 : min(ROWS, call.all_rows() - first_row);
  const int tiles = spare ? 0 : (call.total + TILE - 1) / TILE;
  const unsigned ring = address(shared) + warp * (STAGES * 2 * TILE_BYTES);
  Running running;
  running.begin(call, first_row);

  // Each warp looks at 32 of its tiles at a time, one a lane.
  const int apart = parts * WARPS;
  for (int base = part * WARPS + warp; base < tiles; base += 32 * apart) {
    const int look = base + lane * apart;
    const bool any = look < tiles && call.sees(first_row, first_row + rows, look);
    const long long page_at = look < tiles ? call.page_of(look) : 0;
    unsigned waiting = __ballot_sync(EVERYONE, any), here = waiting;
    const int count = __popc(waiting);
    const auto next = [&](int stage) {
      if (waiting) {
        const int which = __ffs(waiting) - 1;
        waiting &= waiting - 1;
        start(call, base + which * apart, __shfl_sync(EVERYONE, page_at, which),
              ring + stage * 2 * TILE_BYTES);
      }
      commit();
    };
    for (int stage = 0; stage < STAGES - 1; ++stage) next(stage);
    for (int done = 0; done < count; ++done) {
      next((done + STAGES - 1) % STAGES);
      arrived<STAGES - 1>();
      __syncwarp();
      const int which = __ffs(here) - 1;
      here &= here - 1;
      running.attend(call, base + which * apart, ring + done % STAGES * 2 * TILE_BYTES);
      __syncwarp();
    }
    arrived<0>();
    __syncwarp();
  }
  running.end();

  float* partial = reinterpret_cast<float*>(shared);
  __syncthreads();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float* out = partial + (warp * ROWS + running.mine + 8 * r) * WIDTH;
    for (int block = 0; block < HEAD_DIM / 8; ++block) {
      out[block * 8 + running.pair] = running.sum[block][2 * r];
      out[block * 8 + running.pair + 1] = running.sum[block][2 * r + 1];
    }
    if (running.pair == 0) {
      out[HEAD_DIM] = running.highest[r];
      out[HEAD_DIM + 1] = running.weight[r];
    }
  }
  __syncthreads();

  const auto put = [&](int row, int d, const Joined& all) {
    const float value = all.mixed * call.share_of(first_row + row, all.highest, all.weight);
    call.attended[call.of_row(first_row + row) + d] = (Half)packed(value, value);
  };
  float* joined = partial + WARPS * ROWS * WIDTH;
  const auto of_warp = [&](int w, int at) { return partial[w * ROWS * WIDTH + at]; };
  for (int index = threadIdx.x; index < rows * HEAD_DIM; index += blockDim.x) {
    const int row = index / HEAD_DIM, d = index % HEAD_DIM;
    const Joined all = join(row, d, WARPS, of_warp);
    if (CLUSTER == 1 || parts == 1) {
      put(row, d, all);
    } else {
      joined[row * WIDTH + d] = all.mixed;
      if (d == 0) {
        joined[row * WIDTH + HEAD_DIM] = all.highest;
        joined[row * WIDTH + HEAD_DIM + 1] = all.weight;
      }
    }
  }
#if CLUSTER > 1
  if (parts == 1) return;
  meet();
  const int first = blockIdx.x % CLUSTER - part, step = blockDim.x * parts;
  const auto of_block = [&](int b, int at) { return read_of(first + b, joined + at); };
  for (int index = part * blockDim.x + threadIdx.x; index < rows * HEAD_DIM; index += step)
    put(index / HEAD_DIM, index % HEAD_DIM, join(index / HEAD_DIM, index % HEAD_DIM, parts, of_block));
  meet();
#endif
}

// WARPS row tiles, one a warp; in every turn each warp brings a tile of tokens and attends to all of them.
__device__ inline void many_rows(const Call& call, int first_row, unsigned char* shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int own_row = first_row + warp * ROWS, end_row = min(own_row + ROWS, call.all_rows());
  const int tiles = (call.total + TILE - 1) / TILE, turns = (tiles + WARPS - 1) / WARPS;
  const unsigned ring = address(shared);
  const auto slot = [&](int stage, int w) { return ring + (stage * WARPS + w) * 2 * TILE_BYTES; };
  volatile unsigned* told = reinterpret_cast<volatile unsigned*>(shared);
  Running running;
  running.begin(call, own_row);

  for (int base = 0; base < turns; base += 32) {
    // A lane looks at a turn; the block takes those that any of its rows has use for.
    bool any = false;
    for (int w = 0; w < WARPS && own_row < end_row; ++w) {
      const int look = (base + lane) * WARPS + w;
      any |= look < tiles && call.sees(own_row, end_row, look);
    }
    const unsigned mine = __ballot_sync(EVERYONE, any);
    __syncthreads();
    if (lane == 0) told[warp] = mine;
    __syncthreads();
    unsigned waiting = 0;
    for (int w = 0; w < WARPS; ++w) waiting |= told[w];
    __syncthreads();
    const int own_tile = (base + lane) * WARPS + warp;
    const long long page_at = own_tile < tiles ? call.page_of(own_tile) : 0;
    unsigned here = waiting;
    const int count = __popc(waiting);
    const auto next = [&](int stage) {
      if (waiting) {
        const int which = __ffs(waiting) - 1;
        waiting &= waiting - 1;
        start(call, (base + which) * WARPS + warp, __shfl_sync(EVERYONE, page_at, which), slot(stage, warp));
      }
      commit();
    };
    for (int stage = 0; stage < STAGES - 1; ++stage) next(stage);
    for (int done = 0; done < count; ++done) {
      arrived<STAGES - 2>();
      __syncthreads();
      next((done + STAGES - 1) % STAGES);
      const int which = __ffs(here) - 1;
      here &= here - 1;
      if (mine >> which & 1)
        for (int w = 0; w < WARPS; ++w) running.attend(call, (base + which) * WARPS + w, slot(done % STAGES, w));
    }
    arrived<0>();
  }
  running.end();
  running.write(call, own_row);
}

// queries [B, S, HEADS * HEAD_DIM], keys and values [B, S, KV_HEADS * HEAD_DIM], pools
// [pages, PAGE, KV_HEADS, HEAD_DIM], block_tables [B, blocks], mask [B, 1, S, blocks * PAGE + S].
extern "C" __global__ void
#if CLUSTER > 1
__cluster_dims__(CLUSTER, 1, 1)
#endif
__launch_bounds__(32 * WARPS, HEAD_DIM <= 64 ? 16 / WARPS : 1) paged_attention(
    const Half* __restrict__ queries, const Half* __restrict__ keys, const Half* __restrict__ values,
    const Half* __restrict__ key_pool, const Half* __restrict__ value_pool,
    const long long* __restrict__ block_tables, const Half* __restrict__ mask,
#if CAPPED
    const Half* __restrict__ scale, const Half* __restrict__ softcap,
#elif SINKS
    const Half* __restrict__ scale, const Half* __restrict__ sinks,
#endif
    int units, int new_tokens, int blocks, int parts, Half* __restrict__ attended) {
#if !SINKS
  const Half* sinks = nullptr;
#endif
#if CAPPED
  const float cap = wide(*softcap);
#else
  const float cap = 0.0f;
#endif
#if CAPPED || SINKS
  const float factor = wide(*scale);
#else
  const float factor = SCALE;
#endif
  __shared__ __align__(128) unsigned char shared[SHARED_BYTES];
  const bool many = new_tokens * GROUP >= PREFILL_ROWS;
  const int rows = many ? ROWS * WARPS : ROWS;
  const int row_units = (new_tokens * GROUP + rows - 1) / rows;
  const int part = blockIdx.x % parts;
  const bool spare = blockIdx.x / parts >= units;
  const int unit = spare ? units - 1 : blockIdx.x / parts;
  const int batch = unit / KV_HEADS / row_units, first_row = unit / KV_HEADS % row_units * rows;
  const int past = blocks * PAGE, total = past + new_tokens;
  const Call call = {queries, keys, values, key_pool, value_pool,
                     block_tables + (long long)batch * blocks,
                     mask + (long long)batch * new_tokens * total,
                     attended, new_tokens, batch, unit % KV_HEADS, past, total, factor, cap, sinks};
  if (!many) {
    few_rows(call, first_row, parts, part, spare, shared);
  } else if (!spare) {
    many_rows(call, first_row, shared);
  }
}
