// Rows times a matrix that lies by outputs: y [M, N] = x [M, K] w [N, K]' + bias [N], sums in float32.
//
// Defined from outside, beside what halves.cuh wants: BIASED (1 or 0), PARTS, the blocks that share few
// outputs (at most CLUSTER, which is the same), FEW, the most rows of the first form, STAGES, WGMMA (1 where
// the GPU has products of warpgroups) and for those NARROW, the tiles up to which they are halved, and TOGETHER,
// the blocks that run at once (0: tiles are not shared).
//
// Few rows (decoding): the matrix is read once, straight from memory to registers, 16 bytes a thread. It is
// the 16 x 16 side of the tensor cores' products, and eight rows are the other. Which of 32 inputs a thread
// holds is its own affair as long as rows and matrix agree, so a thread takes eight that lie side by side.
// The warps of a block, and the blocks of a cluster, take the inputs in turn and add up their sums.
// The order of every sum depends on the matrix alone: a row has the same result in any company.
// Many rows (prefill): tiles of 128 rows and 128 outputs, by the products that the GPU has.
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
  int row[GROUPS];  // Not pointers: there are no more registers.
#pragma unroll
  for (int i = 0; i < OUTPUTS / 8; ++i)
    matrix[i] = call.w + (long long)min(first_output + 8 * i + mine, call.outputs - 1) * call.inputs;
#pragma unroll
  for (int i = 0; i < GROUPS; ++i)
    row[i] = min(first_row + 8 * i + mine, call.rows - 1) * call.inputs;

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
        const uint4 x = often(call.x + row[g] + at, at < call.inputs);
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

#if WGMMA
#include "many_wgmma.cuh"
#else
#include "many_mma.cuh"
#endif

// Of a block: blocks that read the same of a matrix are neighbours.
struct Place {
  int row, output, which;
};
__device__ inline Place place_of(int block, int by_rows, int by_outputs) {
  return {block % by_rows, block / by_rows % by_outputs, block / by_rows / by_outputs};
}

// One product of several; `shared_rows` where all have the same.
__device__ inline Call one_of(const Call& all, int which, bool shared_rows) {
  return {all.x + (shared_rows ? 0ll : (long long)which * all.rows * all.inputs),
          all.w + (long long)which * all.outputs * all.inputs,
          all.bias,
          all.y + (long long)which * all.rows * all.outputs,
          all.rows,
          all.outputs,
          all.inputs};
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
  __shared__ __align__(1024) unsigned char shared[SHARED_BYTES];
  const Call all = {x, w, bias, y, rows, outputs, inputs};
  if (rows > FEW) {
    const int by_rows = (rows + TILE - 1) / TILE, all_rows = by_rows * count;
    const bool narrow = all_rows * ((outputs + TILE - 1) / TILE) <= NARROW;
    const int width = narrow ? TILE / 2 : TILE, by_outputs = (outputs + width - 1) / width;
    int block = blockIdx.x, part = 0, parts = 1;
#if TOGETHER
    const int left = all_rows * by_outputs % TOGETHER, whole = all_rows * by_outputs - left;
    if (left <= TOGETHER / PARTS && block >= whole) {
      part = (block - whole) % PARTS;
      block = whole + (block - whole) / PARTS;
      parts = PARTS;
    }
#endif
    const Place own = place_of(block, by_rows, by_outputs);
    if (own.which >= count) return;  // The grid is rounded up to whole clusters.
    const Call call = one_of(all, own.which, shared_rows);
    if (narrow) many_rows<TILE / 2>(call, own.row * TILE, own.output * width, part, parts, shared);
    else many_rows<TILE>(call, own.row * TILE, own.output * width, part, parts, shared);
    return;
  }
  const Place own = place_of(blockIdx.x / PARTS, (rows + MOST - 1) / MOST, (outputs + OUTPUTS - 1) / OUTPUTS);
  if (own.which >= count) return;
  const Call call = one_of(all, own.which, shared_rows);
  const int part = blockIdx.x % PARTS, first_row = own.row * MOST, first_output = own.output * OUTPUTS;
  float* sums = reinterpret_cast<float*>(shared);
  if (rows - first_row <= 8) {
    few_rows<1>(call, first_row, first_output, part, sums);
  } else if (rows - first_row <= 16) {
    few_rows<2>(call, first_row, first_output, part, sums);
  } else {
    few_rows<4>(call, first_row, first_output, part, sums);
  }
}
