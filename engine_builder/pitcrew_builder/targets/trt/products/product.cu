// Rows times a matrix that lies by outputs: y [M, N] = x [M, K] w [N, K]' + bias [N], sums in float32.
//
// Defined from outside, beside what halves.cuh wants: BIASED (1 or 0), PARTS, the blocks that share few
// outputs (at most CLUSTER, which is the same), FEW, the most rows of the first form, and STAGES.
//
// Few rows (decoding): the matrix is read once, straight from memory to registers, 16 bytes a thread. It is
// the 16 x 16 side of the tensor cores' products, and eight rows are the other. Which of 32 inputs a thread
// holds is its own affair as long as rows and matrix agree, so a thread takes eight that lie side by side.
// The warps of a block, and the blocks of a cluster, take the inputs in turn and add up their sums.
// The order of every sum depends on the matrix alone: a row has the same result in any company.
// Many rows (prefill): tiles of 128 rows and 128 outputs, 32 inputs at a time, in a ring of stages.
//
// `count` products of one size lie one after the other (experts); their rows too, or all have the same.
constexpr int WARPS = 8;
constexpr int OUTPUTS = 32, DEEP = 64;           // Of a block with few rows: outputs, and inputs a warp's turn.
constexpr int TILE = 128, STEP = 32;             // Of a block with many.
constexpr unsigned STAGE = 2 * TILE * STEP * 2;  // Bytes.
constexpr int MOST = 32;                         // Rows of a block with few.
constexpr int WIDE = OUTPUTS + 1;                // Of a row of sums, so that rows lie in different banks.
constexpr int RING_BYTES = STAGES * STAGE;
constexpr int SUMS_BYTES = WARPS * MOST * WIDE * 4;
constexpr int SHARED_BYTES = RING_BYTES > SUMS_BYTES ? RING_BYTES : SUMS_BYTES;

// What a block works on.
struct Call {
  const Half *x, *w, *bias;
  Half* y;
  int rows, outputs, inputs;
};

__device__ inline void put(const Call& call, int row, int output, float value) {
#if BIASED
  value += wide(call.bias[output]);
#endif
  call.y[(long long)row * call.outputs + output] = (Half)packed(value, value);
}

// Eight numbers, or zeros. A matrix is read once: it need not stay in the first cache.
__device__ inline uint4 once(const Half* from, bool there) {
  uint4 r = make_uint4(0, 0, 0, 0);
  asm volatile(
      "{.reg .pred p; setp.ne.u32 p, %5, 0;"
      " @p ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];}"
      : "+r"(r.x), "+r"(r.y), "+r"(r.z), "+r"(r.w) : "l"(from), "r"((unsigned)there));
  return r;
}
__device__ inline uint4 often(const Half* from, bool there) {
  return there ? __ldg(reinterpret_cast<const uint4*>(from)) : make_uint4(0, 0, 0, 0);
}

// Up to 8 * GROUPS rows from `first_row` on, and OUTPUTS outputs, of which this block sums a part.
template <int GROUPS>
__device__ inline void few_rows(const Call& call, int first_row, int first_output, int part, float* sums) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, mine = lane / 4, eighth = lane % 4 * 8;
  const Half* matrix[OUTPUTS / 8];
  const Half* row[GROUPS];
#pragma unroll
  for (int i = 0; i < OUTPUTS / 8; ++i)
    matrix[i] = call.w + (long long)min(first_output + 8 * i + mine, call.outputs - 1) * call.inputs;
#pragma unroll
  for (int i = 0; i < GROUPS; ++i)
    row[i] = call.x + (long long)min(first_row + 8 * i + mine, call.rows - 1) * call.inputs;

  float sum[OUTPUTS / 16][GROUPS][4] = {};
  for (int from = (part * WARPS + warp) * DEEP; from < call.inputs; from += PARTS * WARPS * DEEP) {
    uint4 read[DEEP / 32][OUTPUTS / 8];
#pragma unroll
    for (int half = 0; half < DEEP / 32; ++half)
      for (int i = 0; i < OUTPUTS / 8; ++i) {
        const int at = from + 32 * half + eighth;
        read[half][i] = once(matrix[i] + at, at < call.inputs);
      }
#pragma unroll
    for (int half = 0; half < DEEP / 32; ++half)
#pragma unroll
      for (int g = 0; g < GROUPS; ++g) {
        const int at = from + 32 * half + eighth;
        const uint4 x = often(row[g] + at, at < call.inputs);
#pragma unroll
        for (int i = 0; i < OUTPUTS / 16; ++i) {
          const uint4 low = read[half][2 * i], high = read[half][2 * i + 1];
          const unsigned first[4] = {low.x, high.x, low.y, high.y};
          const unsigned second[4] = {low.z, high.z, low.w, high.w};
          multiply(sum[i][g], first, x.x, x.y);
          multiply(sum[i][g], second, x.z, x.w);
        }
      }
  }

  // A thread holds outputs `mine` and `mine + 8` of 16, for rows 2 * (lane % 4) and the next of eight.
  constexpr int HELD = 8 * GROUPS;
#pragma unroll
  for (int i = 0; i < OUTPUTS / 16; ++i)
    for (int g = 0; g < GROUPS; ++g)
      for (int c = 0; c < 4; ++c) {
        const int held = 8 * g + lane % 4 * 2 + c % 2, output = 16 * i + mine + c / 2 * 8;
        sums[(warp * HELD + held) * WIDE + output] = sum[i][g][c];
      }
  __syncthreads();
  for (int index = threadIdx.x; index < HELD * OUTPUTS; index += blockDim.x) {
    const int held = index / OUTPUTS, output = index % OUTPUTS;
    float total = 0.0f;
    for (int w = 0; w < WARPS; ++w) total += sums[(w * HELD + held) * WIDE + output];
    if (PARTS == 1) {
      if (first_row + held < call.rows && first_output + output < call.outputs)
        put(call, first_row + held, first_output + output, total);
    } else {
      sums[held * WIDE + output] = total;  // Nobody else reads or writes this place.
    }
  }
#if PARTS > 1
  meet();
  for (int index = part * blockDim.x + threadIdx.x; index < HELD * OUTPUTS; index += PARTS * blockDim.x) {
    const int held = index / OUTPUTS, output = index % OUTPUTS;
    float total = 0.0f;
    for (int p = 0; p < PARTS; ++p) total += read_of(p, sums + held * WIDE + output);
    if (first_row + held < call.rows && first_output + output < call.outputs)
      put(call, first_row + held, first_output + output, total);
  }
  meet();
#endif
}

// Bytes from a tile's begin to eight of its inputs, swizzled so that eight rows lie in different banks.
__device__ inline unsigned place(int row, int chunk) { return row * (STEP * 2) + ((chunk ^ (row >> 1 & 3)) << 4); }

// TILE rows and TILE outputs: a warp has 64 of the rows and 32 of the outputs.
__device__ inline void many_rows(const Call& call, int first_row, int first_output, unsigned ring) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int own_row = warp / 4 * 64, own_output = warp % 4 * 32;
  const int steps = (call.inputs + STEP - 1) / STEP;
  constexpr int LOADS = TILE * STEP / 8 / (32 * WARPS);
  const Half *row[LOADS], *matrix[LOADS];
  bool has_row[LOADS], has_output[LOADS];
#pragma unroll
  for (int i = 0; i < LOADS; ++i) {
    const int at = (threadIdx.x + i * 32 * WARPS) / (STEP / 8);
    has_row[i] = first_row + at < call.rows;
    has_output[i] = first_output + at < call.outputs;
    row[i] = call.x + (long long)min(first_row + at, call.rows - 1) * call.inputs;
    matrix[i] = call.w + (long long)min(first_output + at, call.outputs - 1) * call.inputs;
  }
  const auto bring = [&](int step) {
    const unsigned to = ring + step % STAGES * STAGE;
#pragma unroll
    for (int i = 0; i < LOADS; ++i) {
      const int index = threadIdx.x + i * 32 * WARPS, chunk = index % (STEP / 8);
      const int from = step * STEP + chunk * 8;
      const bool there = from < call.inputs;
      const unsigned at = place(index / (STEP / 8), chunk);
      fetch(to + at, row[i] + (there ? from : 0), there && has_row[i]);
      fetch(to + STAGE / 2 + at, matrix[i] + (there ? from : 0), there && has_output[i]);
    }
  };
  for (int step = 0; step < STAGES - 1; ++step) {
    if (step < steps) bring(step);
    commit();
  }
  float sum[4][4][4] = {};
  for (int step = 0; step < steps; ++step) {
    arrived<STAGES - 2>();
    __syncthreads();
    if (step + STAGES - 1 < steps) bring(step + STAGES - 1);
    commit();
    const unsigned at = ring + step % STAGES * STAGE;
#pragma unroll
    for (int inner = 0; inner < STEP / 16; ++inner) {
      unsigned x[4][4], w[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) load4(x[i], at + place(own_row + 16 * i + lane % 16, 2 * inner + lane / 16));
#pragma unroll
      for (int j = 0; j < 2; ++j)
        load4(w[j], at + STAGE / 2 +
                        place(own_output + 16 * j + lane % 8 + lane / 16 * 8, 2 * inner + lane / 8 % 2));
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply(sum[i][j], x[i], w[j / 2][j % 2 * 2], w[j / 2][j % 2 * 2 + 1]);
    }
  }
  arrived<0>();
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const int to = first_row + own_row + 16 * i + lane / 4 + 8 * side;
        const int output = first_output + own_output + 8 * j + lane % 4 * 2;
        if (to >= call.rows || output >= call.outputs) continue;
        float low = sum[i][j][2 * side], high = sum[i][j][2 * side + 1];
        if (call.outputs % 2) {
          put(call, to, output, low);
          if (output + 1 < call.outputs) put(call, to, output + 1, high);
          continue;
        }
#if BIASED
        low += wide(call.bias[output]);
        high += wide(call.bias[output + 1]);
#endif
        *reinterpret_cast<unsigned*>(call.y + (long long)to * call.outputs + output) = packed(low, high);
      }
}

extern "C" __global__ void
#if CLUSTER > 1
__cluster_dims__(CLUSTER, 1, 1)
#endif
__launch_bounds__(32 * WARPS, 2) product(
    const Half* __restrict__ x, const Half* __restrict__ w,
#if BIASED
    const Half* __restrict__ bias,
#endif
    int rows, int outputs, int inputs, int count, int shared_rows, Half* __restrict__ y) {
#if !BIASED
  const Half* bias = nullptr;
#endif
  __shared__ __align__(128) unsigned char shared[SHARED_BYTES];
  const bool few = rows <= FEW;
  const int block = blockIdx.x / (few ? PARTS : 1);
  const int by_rows = few ? (rows + MOST - 1) / MOST : (rows + TILE - 1) / TILE;
  const int by_outputs = few ? (outputs + OUTPUTS - 1) / OUTPUTS : (outputs + TILE - 1) / TILE;
  // Blocks that read the same of the matrix are neighbours.
  const int row = block % by_rows, output = block / by_rows % by_outputs, which = block / by_rows / by_outputs;
  if (which >= count) return;  // The grid is rounded up to whole clusters.
  const Call call = {x + (shared_rows ? 0ll : (long long)which * rows * inputs),
                     w + (long long)which * outputs * inputs, bias, y + (long long)which * rows * outputs,
                     rows, outputs, inputs};
  if (!few) {
    many_rows(call, row * TILE, output * TILE, address(shared));
    return;
  }
  const int part = blockIdx.x % PARTS, first_row = row * MOST, left = rows - first_row;
  float* sums = reinterpret_cast<float*>(shared);
  if (left <= 8) {
    few_rows<1>(call, first_row, output * OUTPUTS, part, sums);
  } else if (left <= 16) {
    few_rows<2>(call, first_row, output * OUTPUTS, part, sums);
  } else {
    few_rows<4>(call, first_row, output * OUTPUTS, part, sums);
  }
}
