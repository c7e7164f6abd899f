/* What is done by hand in the guest, beside which ours is measured. Says what it did and when on its standard output. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) {
    printf("failed: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000L + time.tv_nsec / 1000;
}

/* Mounts the disk at H:0:0:LUN as soon as it is there. */
static void mount_disk(const char *address, const char *target) {
    char directory[300], device[300] = "";
    snprintf(directory, sizeof directory, "/sys/bus/scsi/devices/%s/block", address);
    mkdir(target, 0700);
    for (;;) {
        DIR *names = opendir(directory);
        struct dirent *name;
        while (names && (name = readdir(names)))
            if (name->d_name[0] != '.') snprintf(device, sizeof device, "/dev/%s", name->d_name);
        if (names) closedir(names);
        int disk = *device ? open(device, O_RDONLY) : -1;
        if (disk >= 0) {
            close(disk);
            break;
        }
        usleep(1000);
    }
    if (mount(device, target, "erofs", MS_RDONLY, "")) fail(device);
}

int main(int count, char **words) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (getpid() == 1) {
        puts("ready");
        for (;;) pause();
    }
    const char *what = count > 1 ? words[1] : "";
    if (!strcmp(what, "mount")) {
        /* HOST FIRST-LUN COUNT DIRECTORY: disks that come one after another, and an overlay of them if there are several */
        int first = atoi(words[3]), disks = atoi(words[4]);
        char layers[4000] = "lowerdir=", target[200], address[50];
        mkdir(words[5], 0700);
        puts("waiting");
        for (int disk = 0; disk < disks; disk++) {
            snprintf(target, sizeof target, "%s/%d", words[5], disk);
            snprintf(address, sizeof address, "%s:0:0:%d", words[2], first + disk);
            mount_disk(address, target);
            if (disk) strcat(layers, ":");
            strcat(layers, target);
            if (disks > 1 && disk == disks - 1) {
                snprintf(target, sizeof target, "%s/root", words[5]);
                mkdir(target, 0700);
                if (mount("overlay", target, "overlay", MS_RDONLY, layers)) fail("overlay");
            }
            puts("mounted");
        }
    } else if (!strcmp(what, "read")) {
        /* FILE: microseconds */
        static char buffer[1 << 20];
        long begin = now();
        int file = open(words[2], O_RDONLY);
        ssize_t length;
        if (file < 0) fail(words[2]);
        while ((length = read(file, buffer, sizeof buffer)) > 0) {}
        if (length < 0) fail("read");
        printf("%ld\n", now() - begin);
    } else if (!strcmp(what, "names")) {
        /* DIRECTORY COUNT: microseconds of making, looking at, renaming, listing and removing so many files */
        int files = atoi(words[3]);
        char name[300], other[300];
        struct stat about;
        long begin = now();
        if (mkdir(words[2], 0700)) fail(words[2]);
        for (int index = 0; index < files; index++) {
            snprintf(name, sizeof name, "%s/%d", words[2], index);
            snprintf(other, sizeof other, "%s/other-%d", words[2], index);
            int file = open(name, O_CREAT | O_WRONLY, 0600);
            if (file < 0 || write(file, "x", 1) != 1 || close(file)) fail(name);
            if (stat(name, &about) || rename(name, other) || chmod(other, 0640)) fail(name);
        }
        DIR *names = opendir(words[2]);
        while (readdir(names)) {}
        closedir(names);
        for (int index = 0; index < files; index++) {
            snprintf(other, sizeof other, "%s/other-%d", words[2], index);
            if (stat(other, &about) || unlink(other)) fail(other);
        }
        if (rmdir(words[2])) fail(words[2]);
        printf("%ld\n", now() - begin);
    } else {
        errno = EINVAL;
        fail("arguments");
    }
    return 0;
}
