# The smallest guest that the toolstack can save and checkpoint: a PVH kernel in a few pages.
#
# It counts, dirties a ring of 32 pages one after the other with a few changed words each, sleeps 10 ms between two, and
# suspends when its event channel fires. libxl learns of that channel from the guest's xenstore node
# device/suspend/event-channel, which Dom0 writes: the guest has no xenbus. Its port is 3 (xenstore has 1, the console 2).
    .set PAGE, 4096

    .code32
    .section .note.Xen, "a", @note
    .align 4
    .long 4, 4, 18          # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start

    .text
    .globl _start
_start:
    cli
    cld
    movl $stack_top, %esp
    # The hypercall page's MSR is in CPUID leaf 0x40000002.
    movl $0x40000002, %eax
    xorl %ecx, %ecx
    cpuid
    movl %ebx, %ecx
    movl $hypercall_page, %eax
    xorl %edx, %edx
    wrmsr

    movl $7, %ebx           # XENMEM_add_to_physmap: the shared info page
    movl $add_to_physmap, %ecx
    call hypercall_page + 12 * 32
    movl $6, %ebx           # EVTCHNOP_alloc_unbound
    movl $alloc, %ecx
    call hypercall_page + 32 * 32
    movl alloc_port, %eax
    movl %eax, poll_port

main:
    incl counter
    movl counter, %edx
    movl %edx, %eax
    andl $31, %eax
    shll $12, %eax
    addl $ring, %eax
    movl %edx, (%eax)
    movl %edx, 1000(%eax)
    movl %edx, 4092(%eax)

    # The time-out is absolute: 10 ms after the last one, or the vCPU's system time (vcpu_info[0].time.system_time, ns, as of
    # the last calibration) if that is later.
    movl poll_timeout, %eax
    movl poll_timeout + 4, %edx
    addl $10000000, %eax
    adcl $0, %edx
    movl shared_info + 48, %ebx
    movl shared_info + 52, %ecx
    cmpl %eax, %ebx
    movl %ecx, %esi
    sbbl %edx, %esi
    jb 1f
    movl %ebx, %eax
    movl %ecx, %edx
1:
    movl %eax, poll_timeout
    movl %edx, poll_timeout + 4
    movl $3, %ebx           # SCHEDOP_poll
    movl $poll, %ecx
    call hypercall_page + 29 * 32

    movl poll_port, %eax
    lock btrl %eax, shared_info + 0x800   # evtchn_pending
    jnc main
    movl $2, %ebx           # SCHEDOP_shutdown
    movl $suspend, %ecx
    call hypercall_page + 29 * 32
    jmp main

    .data
    .align 8
poll:
    .long poll_port, 1
poll_timeout:
    .quad 0
poll_port:
    .long 0
alloc:
    .word 0x7ff0, 0         # DOMID_SELF, remote domain 0
alloc_port:
    .long 0
add_to_physmap:
    .word 0x7ff0, 0         # DOMID_SELF
    .long 0                 # XENMAPSPACE_shared_info
    .long 0
    .long shared_info_frame
suspend:
    .long 2                 # SHUTDOWN_suspend
counter:
    .long 0

    .bss
    .align PAGE
hypercall_page:
    .skip PAGE
    .globl shared_info
shared_info:
    .skip PAGE
ring:
    .skip 32 * PAGE
    .skip PAGE
stack_top:
