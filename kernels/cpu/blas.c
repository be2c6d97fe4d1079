/*
 * blas.c: OpenBLAS, opened at run time.
 *
 * Which one: Debian builds three. Called by many threads at once the serial build returns wrong
 * numbers (0.3.21, 100 threads, 2 of 40000 products: it takes no lock around its buffers), and the
 * OpenMP build starts threads of its own in each caller. The pthread build with its own threads
 * turned off gave the same bits at 100 threads and is as fast (2026-11, EPYC 9005: 200 GFLOPS fp32
 * per core at 128 x 128 x 64 with its AVX-512 kernels). BLIS 0.9 reaches 37 there: it does not know
 * the CPU.
 *
 * Why at run time: only so can we look at which build it is before it is called, and tell it while
 * it is loaded not to start a thread per core that we would never use (OPENBLAS_NUM_THREADS=1).
 * blas_open runs at start-up, before other threads read the environment.
 */
#include "kernels/cpu/blas.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>

/* The values of CBLAS, an interface without a header that is installed with the library. */
enum { ROW_MAJOR = 101, AS_IS = 111, TRANSPOSED = 112 };
enum { OPENBLAS_PTHREAD = 1 };

typedef void gemm_function(int order, int trans_a, int trans_b, int m, int n, int k, float alpha,
                           const float *a, int lda, const float *b, int ldb, float beta, float *c,
                           int ldc);
typedef int parallel_function(void);
typedef void threads_function(int count);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static gemm_function *gemm;

static void *load(void)
{
    static const char name[] = "OPENBLAS_NUM_THREADS";
    bool ours = !getenv(name) && setenv(name, "1", 0) == 0;
    void *library = dlopen(OPENBLAS_PTHREAD_PATH, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    }
    if (ours) {
        unsetenv(name);
    }
    return library;
}

static void open_once(void)
{
    void *library = load();
    if (!library) {
        return;
    }
    parallel_function *parallel;
    threads_function *set_threads;
    gemm_function *found;
    /* POSIX's own form: C has no cast from an object pointer to a function pointer. */
    *(void **)&parallel = dlsym(library, "openblas_get_parallel");
    *(void **)&set_threads = dlsym(library, "openblas_set_num_threads");
    *(void **)&found = dlsym(library, "cblas_sgemm");
    if (!parallel || !set_threads || !found || parallel() != OPENBLAS_PTHREAD) {
        return;
    }
    set_threads(1);
    gemm = found;
}

bool blas_open(void)
{
    pthread_once(&once, open_once);
    return gemm != NULL;
}

void blas_multiply_nt(int m, int n, int k, float alpha, struct matrix a, struct matrix b,
                      struct matrix c)
{
    gemm(ROW_MAJOR, AS_IS, TRANSPOSED, m, n, k, alpha, a.data, a.ld, b.data, b.ld, 0, c.data, c.ld);
}

void blas_add_nn(int m, int n, int k, struct matrix a, struct matrix b, struct matrix c)
{
    gemm(ROW_MAJOR, AS_IS, AS_IS, m, n, k, 1, a.data, a.ld, b.data, b.ld, 1, c.data, c.ld);
}

void blas_add_tn(int m, int n, int k, struct matrix a, struct matrix b, struct matrix c)
{
    gemm(ROW_MAJOR, TRANSPOSED, AS_IS, m, n, k, 1, a.data, a.ld, b.data, b.ld, 1, c.data, c.ld);
}
