// What a step does on the GPU beside its plan. Pools, and what a run made for them, are arrays of equal
// length side by side: one for the keys and one for the values of each layer. Strides are in units of 16 bytes.

// The new tokens [pools, tokens, chunks] of a run into their slots; a negative slot takes nothing.
// Grid: tokens, pools.
extern "C" __global__ void store(uint4* pools, long long pool, const uint4* made, long long one, const long long* slots,
                                 int chunks) {
  const long long slot = slots[blockIdx.x];
  if (slot < 0) return;
  uint4* to = pools + blockIdx.y * pool + slot * chunks;
  const uint4* from = made + blockIdx.y * one + (long long)blockIdx.x * chunks;
  for (int i = threadIdx.x; i < chunks; i += blockDim.x) to[i] = from[i];
}

// One page of every pool into another. Grid: blocks, pools.
extern "C" __global__ void copy_page(uint4* pools, long long pool, long long from, long long to, int chunks) {
  uint4* base = pools + blockIdx.y * pool;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < chunks; i += gridDim.x * blockDim.x)
    base[to * chunks + i] = base[from * chunks + i];
}

// The largest logit of each row [rows, width] and its token as one number, which `best` [rows] has to be less
// than: above, the float's bits in their order, and all ones for what is no number; below, the token's complement,
// so that of equal ones the first wins. Grid: blocks, rows.
extern "C" __global__ void likeliest(const float* logits, unsigned long long* best, int width) {
  const float* row = logits + (long long)blockIdx.y * width;
  unsigned long long found = 0;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < width; i += gridDim.x * blockDim.x) {
    const unsigned bits = __float_as_uint(row[i] + 0.0f);  // -0 is as large as 0.
    const bool is_number = (bits & 0x7fffffffu) <= 0x7f800000u;
    const unsigned order = !is_number ? ~0u : bits >> 31 ? ~bits : bits | 0x80000000u;
    const unsigned long long key = (unsigned long long)order << 32 | ~(unsigned)i;
    if (key > found) found = key;
  }
  for (int apart = 16; apart; apart /= 2) {
    const unsigned long long other = __shfl_down_sync(~0u, found, apart);
    if (other > found) found = other;
  }
  if (threadIdx.x % 32 == 0) atomicMax(best + blockIdx.y, found);
}
