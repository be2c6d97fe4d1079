#include "sim/fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <vector>

#ifndef __has_feature
#define __has_feature(x) 0 /* clang's way to ask; g++ defines __SANITIZE_ADDRESS__ */
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define SIM_ASAN
#include <sanitizer/asan_interface.h>
#endif

#if !defined(__x86_64__)
#error "the simulator's context switch is written for x86-64"
#endif

/* Callee-saved registers of the System V ABI, then the stack pointers change hands. The floating
 * point control words are the same in all fibers. */
asm(".text\n"
    ".type sim_fiber_switch, @function\n"
    "sim_fiber_switch:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq (%rsi), %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    ret\n"
    ".size sim_fiber_switch, .-sim_fiber_switch\n"
    /* A new fiber returns to here with its entry in r12 and the argument in r13. */
    ".type sim_fiber_start, @function\n"
    "sim_fiber_start:\n"
    "    movq %r13, %rdi\n"
    "    xorl %ebp, %ebp\n"
    "    callq *%r12\n"
    "    ud2\n"
    ".size sim_fiber_start, .-sim_fiber_start\n");

extern "C" {
void sim_fiber_switch(void **from, void **to);
void sim_fiber_start(void);
}

namespace sim
{

namespace
{

/* Kernel frames are 1 to 2 KiB; sanitizers grow them tenfold and more. */
#ifdef SIM_ASAN
constexpr size_t STACK_BYTES = 512 * 1024;
#else
constexpr size_t STACK_BYTES = 128 * 1024;
#endif
constexpr size_t PAGE_BYTES = 4096;

struct stack_pool {
    std::vector<char *> free;

    ~stack_pool()
    {
        for (char *stack : free) {
            munmap(stack, STACK_BYTES);
        }
    }
};

stack_pool &stacks()
{
    static thread_local stack_pool pool;
    return pool;
}

char *stack_take()
{
    std::vector<char *> &free = stacks().free;
    if (!free.empty()) {
        char *stack = free.back();
        free.pop_back();
#ifdef SIM_ASAN /* frames of an abandoned fiber left their red zones behind */
        __asan_unpoison_memory_region(stack, STACK_BYTES);
#endif
        return stack;
    }
    void *stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, PAGE_BYTES, PROT_NONE) != 0) {
        abort(); /* a test program without memory has nothing to report */
    }
    return static_cast<char *>(stack);
}

} // namespace

void fiber_open(fiber *f, void (*entry)(void *), void *argument)
{
    f->stack = stack_take();
    uint64_t *top = reinterpret_cast<uint64_t *>(f->stack + STACK_BYTES);
    *--top = reinterpret_cast<uint64_t>(&sim_fiber_start);
    *--top = 0;                                    /* rbp */
    *--top = 0;                                    /* rbx */
    *--top = reinterpret_cast<uint64_t>(entry);    /* r12 */
    *--top = reinterpret_cast<uint64_t>(argument); /* r13 */
    *--top = 0;                                    /* r14 */
    *--top = 0;                                    /* r15 */
    f->stack_pointer = top;
}

void fiber_close(fiber *f)
{
    if (f->stack != nullptr) {
        stacks().free.push_back(f->stack);
        f->stack = nullptr;
    }
}

void fiber_switch(fiber *from, fiber *to)
{
    sim_fiber_switch(&from->stack_pointer, &to->stack_pointer);
}

} // namespace sim
