// Rows scaled to unit root mean square: y = x / sqrt(mean(x^2) + epsilon) * scale, in float32 throughout.
//
// Defined from outside, beside what halves.cuh wants: WIDTH of a row (a multiple of 8), and LANES, the
// threads of a row (a warp, or the block).
constexpr int THREADS = 256, CHUNKS = WIDTH / 8;

__device__ inline void spread(const uint4& from, float (&to)[8]) {
  const unsigned words[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i] = wide((Half)(words[i / 2] >> i % 2 * 16));
}

extern "C" __global__ void __launch_bounds__(THREADS) rms_norm(
    const uint4* __restrict__ x, const uint4* __restrict__ scale, const float* __restrict__ epsilon, int rows,
    uint4* __restrict__ y) {
  __shared__ float sums[THREADS / 32];
  const int lane = threadIdx.x % LANES, row = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
  const bool there = row < rows;
  const uint4* own = x + (long long)(there ? row : 0) * CHUNKS;
  float square = 0.0f;
  for (int chunk = lane; chunk < CHUNKS; chunk += LANES) {
    float value[8];
    spread(own[chunk], value);
#pragma unroll
    for (int i = 0; i < 8; ++i) square += value[i] * value[i];
  }
#pragma unroll
  for (int apart = 16; apart; apart /= 2) square += __shfl_xor_sync(EVERYONE, square, apart);
  if (LANES > 32) {
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = square;
    __syncthreads();
    square = 0.0f;
    for (int warp = 0; warp < THREADS / 32; ++warp) square += sums[warp];
  }
  if (!there) return;
  const float factor = rsqrtf(square / WIDTH + *epsilon);
  for (int chunk = lane; chunk < CHUNKS; chunk += LANES) {
    float value[8], by[8];
    spread(own[chunk], value);
    spread(scale[chunk], by);
#pragma unroll
    for (int i = 0; i < 8; ++i) value[i] *= factor * by[i];
    y[(long long)row * CHUNKS + chunk] = make_uint4(packed(value[0], value[1]), packed(value[2], value[3]),
                                                    packed(value[4], value[5]), packed(value[6], value[7]));
  }
}
