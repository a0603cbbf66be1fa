// Many rows on Hopper: a tile of 128 rows and 128 outputs, 32 inputs at a time, in a ring of stages. Each of
// two warpgroups multiplies 64 rows with all outputs of the tile, asynchronously, from shared memory. Where
// there are so few tiles that processors would idle they have 64 outputs, and the ring one more stage.
//
// Two blocks share a processor: while one waits for its stage the other multiplies. The blocks of a cluster
// share the inputs of a tile that is left over when all processors had theirs, and add up their sums in order.
constexpr int GROUP = 64;  // Rows of a warpgroup.

#if BFLOAT16
#define OF_HALVES "bf16.bf16"
#else
#define OF_HALVES "f16.f16"
#endif
#define SIXTEEN(at)                                                                                     \
  "+f"(sum[at]), "+f"(sum[at + 1]), "+f"(sum[at + 2]), "+f"(sum[at + 3]), "+f"(sum[at + 4]), "+f"(sum[at + 5]), \
      "+f"(sum[at + 6]), "+f"(sum[at + 7]), "+f"(sum[at + 8]), "+f"(sum[at + 9]), "+f"(sum[at + 10]),   \
      "+f"(sum[at + 11]), "+f"(sum[at + 12]), "+f"(sum[at + 13]), "+f"(sum[at + 14]), "+f"(sum[at + 15])

// sum [64, 128 or 64] += rows [64, 16] outputs [128 or 64, 16]', both in shared memory.
__device__ inline void multiply_tiles(float (&sum)[64], unsigned long long rows, unsigned long long outputs) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." OF_HALVES
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"
      "%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,"
      "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, 1, 1, 1, 0, 0;"
      : SIXTEEN(0), SIXTEEN(16), SIXTEEN(32), SIXTEEN(48)
      : "l"(rows), "l"(outputs));
}
__device__ inline void multiply_tiles(float (&sum)[32], unsigned long long rows, unsigned long long outputs) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." OF_HALVES
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"
      "%28,%29,%30,%31}, %32, %33, 1, 1, 1, 0, 0;"
      : SIXTEEN(0), SIXTEEN(16)
      : "l"(rows), "l"(outputs));
}

// Bytes from a tile's begin to eight of its inputs: the tensor cores' swizzle of rows of 64 bytes.
__device__ inline unsigned place(int row, int chunk) { return row * (STEP * 2) + ((chunk ^ (row >> 1 & 3)) << 4); }

// Of an operand whose rows are swizzled like that; eight rows are a block of it.
__device__ inline unsigned long long operand(unsigned at) {
  constexpr unsigned long long BY_64_BYTES = 2ull << 62, BLOCK = 8 * STEP * 2 / 16;
  return BY_64_BYTES | BLOCK << 32 | 1ull << 16 | (at >> 4 & 0x3fff);
}

// Two neighbouring outputs with their bias.
__device__ inline unsigned finished(const Call& call, int output, float low, float high) {
#if BIASED
  low += output < call.outputs ? wide(call.bias[output]) : 0.0f;
  high += output + 1 < call.outputs ? wide(call.bias[output + 1]) : 0.0f;
#endif
  return packed(low, high);
}

// What four threads hold of four words becomes one word of each: v[i] is afterwards thread i's v[quarter].
__device__ inline void exchange(unsigned (&v)[4], int quarter) {
#pragma unroll
  for (int by = 1; by <= 2; by *= 2)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & by) continue;
      const bool upper = quarter & by;
      const unsigned got = __shfl_xor_sync(EVERYONE, upper ? v[i] : v[i + by], by);
      if (upper) v[i] = got;
      else v[i + by] = got;
    }
}

// A warp's 16 rows: a thread holds outputs 8 * j + 2 * (lane % 4) and the next, of rows lane / 4 and eight on.
template <int WIDTH>
__device__ inline void put_rows(const Call& call, const float (&sum)[WIDTH / 2], int first_row, int first_output) {
  const int lane = threadIdx.x % 32, quarter = lane % 4;
#pragma unroll
  for (int j = 0; j < WIDTH / 8; j += 4)
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const int row = first_row + lane / 4 + 8 * side, at = first_output + 8 * j;
      const float* own = sum + 4 * j + 2 * side;
      if (call.outputs % 8) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int output = at + i / 2 * 8 + quarter * 2 + i % 2;
          if (row < call.rows && output < call.outputs) put(call, row, output, own[i / 2 * 4 + i % 2]);
        }
        continue;
      }
      unsigned word[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) word[i] = finished(call, at + 8 * i + 2 * quarter, own[4 * i], own[4 * i + 1]);
      exchange(word, quarter);
      const int output = at + 8 * quarter;
      if (row < call.rows && output < call.outputs)
        *reinterpret_cast<uint4*>(call.y + (long long)row * call.outputs + output) =
            make_uint4(word[0], word[1], word[2], word[3]);
    }
}

#if PARTS > 1
// The sum of all blocks' sums, in their order.
template <int WIDTH>
__device__ inline void put_shared(const Call& call, const float (&sum)[WIDTH / 2], int first_row, int first_output,
                                  int part, float* shared) {
  constexpr int WORDS = WIDTH / 8;  // Eights of outputs.
  constexpr int PITCH = WIDTH + 8;  // Of a row of sums, so that rows lie in different banks.
  static_assert(GROUP * PITCH * 4 <= SHARED_BYTES, "sums of one warpgroup lie in shared memory at a time");
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int group = 0; group < 2; ++group) {
    if (warp / 4 == group) {
#pragma unroll
      for (int j = 0; j < WORDS; ++j)
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const int row = warp % 4 * 16 + lane / 4 + 8 * side;
          *reinterpret_cast<float2*>(shared + row * PITCH + 8 * j + lane % 4 * 2) =
              make_float2(sum[4 * j + 2 * side], sum[4 * j + 2 * side + 1]);
        }
    }
    meet();
    for (int index = part * 32 * WARPS + threadIdx.x; index < GROUP * WORDS; index += PARTS * 32 * WARPS) {
      const int row = index / WORDS, at = index % WORDS * 8;
      float total[8] = {};
#pragma unroll
      for (int p = 0; p < PARTS; ++p) {
        const float4 low = read4_of(p, shared + row * PITCH + at), high = read4_of(p, shared + row * PITCH + at + 4);
        const float read[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int i = 0; i < 8; ++i) total[i] += read[i];
      }
      const int to = first_row + group * GROUP + row, output = first_output + at;
      if (to >= call.rows || output >= call.outputs) continue;
      if (call.outputs % 8) {
        for (int i = 0; i < 8; ++i)
          if (output + i < call.outputs) put(call, to, output + i, total[i]);
        continue;
      }
      unsigned word[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) word[i] = finished(call, output + 2 * i, total[2 * i], total[2 * i + 1]);
      *reinterpret_cast<uint4*>(call.y + (long long)to * call.outputs + output) =
          make_uint4(word[0], word[1], word[2], word[3]);
    }
    meet();
  }
}
#endif

// Block `part` of `parts` that share the tile's inputs.
template <int WIDTH>
__device__ inline void many_rows(const Call& call, int first_row, int first_output, int part, int parts,
                                 unsigned char* shared) {
  constexpr int CHUNKS = STEP / 8, APART = 32 * WARPS / CHUNKS, ROWS = TILE / APART, LOADS = WIDTH / APART;
  constexpr unsigned OF_ROWS = TILE * STEP * 2, STAGE_BYTES = OF_ROWS + WIDTH * STEP * 2;
  constexpr int DEPTH = SHARED_BYTES / STAGE_BYTES;
  const unsigned ring = address(shared);
  const int own_row = threadIdx.x / CHUNKS, own_input = threadIdx.x % CHUNKS * 8, group = threadIdx.x / 128;
  const int all = (call.inputs + STEP - 1) / STEP, each = (all + parts - 1) / parts;
  const int first = min(part * each, all), steps = min(each, all - first);
  const unsigned to = ring + place(own_row, own_input / 8);
  const Half *row[ROWS], *matrix[LOADS];
  bool has_row[ROWS], has_output[LOADS];
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    const int x = first_row + own_row + i * APART;
    has_row[i] = x < call.rows;
    row[i] = call.x + (long long)min(x, call.rows - 1) * call.inputs + own_input;
  }
#pragma unroll
  for (int i = 0; i < LOADS; ++i) {
    const int w = first_output + own_row + i * APART;
    has_output[i] = w < call.outputs;
    matrix[i] = call.w + (long long)min(w, call.outputs - 1) * call.inputs + own_input;
  }
  const auto bring = [&](int step) {
    const unsigned stage = to + step % DEPTH * STAGE_BYTES;
    const int from = (first + step) * STEP;
    const bool there = from + own_input < call.inputs;
#pragma unroll
    for (int i = 0; i < ROWS; ++i)
      fetch(stage + i * APART * STEP * 2, row[i] + (there ? from : 0), there && has_row[i]);
#pragma unroll
    for (int i = 0; i < LOADS; ++i)
      fetch(stage + OF_ROWS + i * APART * STEP * 2, matrix[i] + (there ? from : 0), there && has_output[i]);
  };
#pragma unroll
  for (int step = 0; step < DEPTH - 1; ++step) {
    if (step < steps) bring(step);
    commit();
  }
  float sum[WIDTH / 2] = {};
  for (int step = 0; step < steps; ++step) {
    arrived<DEPTH - 2>();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // What came is read by the tensor cores.
    __syncthreads();
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    const unsigned at = ring + step % DEPTH * STAGE_BYTES;
#pragma unroll
    for (int inner = 0; inner < STEP / 16; ++inner)  // 16 inputs are two units of 16 bytes.
      multiply_tiles(sum, operand(at + group * GROUP * STEP * 2) + 2 * inner, operand(at + OF_ROWS) + 2 * inner);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    if (step + DEPTH - 1 < steps) bring(step + DEPTH - 1);
    commit();
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  }
#if PARTS > 1
  if (parts > 1) {
    __syncthreads();  // The ring holds sums from now on.
    put_shared<WIDTH>(call, sum, first_row, first_output, part, reinterpret_cast<float*>(shared));
    return;
  }
#endif
  put_rows<WIDTH>(call, sum, first_row + threadIdx.x / 32 * 16, first_output);
}
