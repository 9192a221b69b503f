// Call kernels on the arrays of one file and write the arrays to another: how test_neon.py reaches a library that was
// compiled for another processor.
//
// driver IN OUT. IN is a run of calls: a name, a count, and so many arguments. A name is a length and its bytes; an
// argument is a tag and a value: 'a', a length and the bytes of an array; 'i', an int64; 'f', a float. Lengths and
// counts are int64. OUT is what the arrays of all calls hold afterwards, one after another. Prints the instruction set.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

// Some programs have only some of the kernels: what is weak and missing has no address.
#pragma weak soberano_rms_norm
#pragma weak soberano_attention
#pragma weak soberano_write_kv

extern "C" {
const char* soberano_isa();
void soberano_threads(int);
int soberano_pack_tiles(const uint8_t*, uint8_t*, int64_t, int64_t, int64_t);
void soberano_linear(const float*, const uint8_t*, float*, int64_t, int64_t, int64_t, int64_t);
void soberano_linear_transposed(const float*, const uint8_t*, float*, int64_t, int64_t, int64_t, int64_t);
void soberano_rms_norm(const float*, const float*, float*, int64_t, int64_t, float);
void soberano_attention(const float*, const uint16_t*, const uint16_t*, const int32_t*, const int32_t*, const float*,
                        float*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, float, float);
void soberano_write_kv(uint16_t*, uint16_t*, const float*, const float*, const int32_t*, const int32_t*, int64_t,
                       int64_t, int64_t, int64_t, int64_t, int64_t);
}

namespace {

[[noreturn]] void fail(const std::string& why) {
  std::fprintf(stderr, "neon_driver: %s\n", why.c_str());
  std::exit(1);
}

struct Argument {
  std::vector<char> array;
  int64_t whole = 0;
  float real = 0;
  template <class T> operator T*() { return reinterpret_cast<T*>(array.data()); }
  operator int64_t() const { return whole; }
  operator float() const { return real; }
};
using Arguments = std::vector<Argument>;

template <class R, class... A, size_t... i> void call(R (*kernel)(A...), Arguments& args, std::index_sequence<i...>) {
  if (args.size() != sizeof...(A)) fail("a call has " + std::to_string(args.size()) + " arguments, which is wrong");
  kernel(static_cast<A>(args[i])...);
}

template <class R, class... A> std::function<void(Arguments&)> taking(R (*kernel)(A...)) {
  return [kernel](Arguments& args) { call(kernel, args, std::index_sequence_for<A...>()); };
}

const std::map<std::string, std::function<void(Arguments&)>> kernels = {
    {"soberano_pack_tiles", taking(soberano_pack_tiles)},
    {"soberano_linear", taking(soberano_linear)},
    {"soberano_linear_transposed", taking(soberano_linear_transposed)},
    {"soberano_rms_norm", taking(soberano_rms_norm)},
    {"soberano_attention", taking(soberano_attention)},
    {"soberano_write_kv", taking(soberano_write_kv)},
};

void read(std::FILE* file, void* to, size_t bytes) {
  if (std::fread(to, 1, bytes, file) != bytes) fail("the file of calls ends too soon");
}

int64_t read_whole(std::FILE* file) {
  int64_t value;
  read(file, &value, sizeof value);
  return value;
}

Argument read_argument(std::FILE* file) {
  Argument to;
  char tag;
  read(file, &tag, 1);
  if (tag == 'a') {
    to.array.resize(read_whole(file));
    read(file, to.array.data(), to.array.size());
  } else if (tag == 'i') {
    to.whole = read_whole(file);
  } else {
    read(file, &to.real, sizeof to.real);
  }
  return to;
}

}  // namespace

int main(int count, char** words) {
  std::FILE *in = count == 3 ? std::fopen(words[1], "rb") : nullptr, *out = in ? std::fopen(words[2], "wb") : nullptr;
  if (!out) fail("usage: neon_driver IN OUT");
  std::puts(soberano_isa());
  soberano_threads(2);
  for (int next; (next = std::fgetc(in)) != EOF;) {
    std::ungetc(next, in);
    std::string name(read_whole(in), '\0');
    read(in, name.data(), name.size());
    const auto kernel = kernels.find(name);
    if (kernel == kernels.end()) fail("no kernel is called " + name);
    Arguments args(read_whole(in));
    for (Argument& arg : args) arg = read_argument(in);
    kernel->second(args);
    for (const Argument& arg : args) std::fwrite(arg.array.data(), 1, arg.array.size(), out);
  }
  return std::fclose(out);
}
