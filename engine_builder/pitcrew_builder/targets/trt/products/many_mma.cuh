// Many rows by the products of warps, on every GPU since Ampere: a tile of 128 rows and 128 outputs, 32 inputs
// at a time, in a ring of stages.
// Bytes from a tile's begin to eight of its inputs, swizzled so that eight rows lie in different banks.
__device__ inline unsigned place(int row, int chunk) { return row * (STEP * 2) + ((chunk ^ (row >> 1 & 3)) << 4); }

// TILE rows and TILE outputs: a warp has 64 of the rows and 32 of the outputs.
template <int>
__device__ inline void many_rows(const Call& call, int first_row, int first_output, int, int, unsigned char* shared) {
  const unsigned ring = address(shared);
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
